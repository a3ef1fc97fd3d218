// Small files of the runtime's own: written beside their place and renamed, so that they are whole or not there; read
// with a checksum before every piece.
#pragma once

#include <string>

#include "core/result.h"

namespace edgekit {

// A descriptor that closes itself.
struct Handle {
  explicit Handle(int descriptor) : fd(descriptor) {}
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  int fd;
};

inline const uint8_t* bytes_of(const void* value) { return static_cast<const uint8_t*>(value); }
inline uint8_t* bytes_of(void* value) { return static_cast<uint8_t*>(value); }

// Reads or writes every byte; false when that cannot be.
bool transfer(int fd, uint8_t* data, uint64_t size, bool writing);
// A checksum (8 bytes) and what it is of.
bool write_chunk(int fd, const void* data, uint64_t size);
bool read_chunk(int fd, void* data, uint64_t size);

// A pipe under the name is not waited for.
int open_to_read(const std::string& path);
// Refuses what was not opened or is no regular file; gives its size.
Outcome check_opened(const std::string& path, int fd, uint64_t& size);

namespace whole_file {
int begin(const std::string& partial);
Outcome end(const std::string& path, const std::string& partial, int fd, bool written);
}  // namespace whole_file

// Makes a file with what body(fd) -> bool writes. Another one under the name is replaced, or stays when that fails.
template <class Body>
Outcome write_whole(const std::string& path, const Body& body) {
  const std::string partial = path + ".partial";
  const int fd = whole_file::begin(partial);
  return whole_file::end(path, partial, fd, fd >= 0 && body(fd));
}

}  // namespace edgekit
