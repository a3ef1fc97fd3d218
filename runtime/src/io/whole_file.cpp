#include "io/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/checksum.h"

namespace edgekit {

Handle::~Handle() {
  if (fd >= 0) close(fd);
}

bool transfer(int fd, uint8_t* data, uint64_t size, bool writing) {
  while (size > 0) {
    const ssize_t n = writing ? write(fd, data, size) : read(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<uint64_t>(n);
  }
  return true;
}

bool write_chunk(int fd, const void* data, uint64_t size) {
  uint64_t sum = lane64(bytes_of(data), size);
  return transfer(fd, bytes_of(&sum), 8, true) && transfer(fd, const_cast<uint8_t*>(bytes_of(data)), size, true);
}

bool read_chunk(int fd, void* data, uint64_t size) {
  uint64_t sum = 0;
  return transfer(fd, bytes_of(&sum), 8, false) && transfer(fd, bytes_of(data), size, false) &&
         lane64(bytes_of(data), size) == sum;
}

int open_to_read(const std::string& path) { return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }

Outcome check_opened(const std::string& path, int fd, uint64_t& size) {
  if (fd < 0) return fail(EDGEKIT_NOT_FOUND, path + ": cannot be opened: " + std::string(std::strerror(errno)));
  struct stat status{};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return fail(EDGEKIT_CORRUPT, path + ": is no regular file");
  size = static_cast<uint64_t>(status.st_size);
  return Nothing{};
}

namespace whole_file {

int begin(const std::string& partial) { return open(partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600); }

Outcome end(const std::string& path, const std::string& partial, int fd, bool written) {
  const auto system_error = [](const std::string& where) {
    return fail(EDGEKIT_IO, where + ": cannot be written: " + std::strerror(errno));
  };
  if (fd < 0) return system_error(partial);
  Error error;
  if (!written || fsync(fd) != 0) error = system_error(partial);
  close(fd);
  if (error.status == EDGEKIT_OK && std::rename(partial.c_str(), path.c_str()) == 0) return Nothing{};
  if (error.status == EDGEKIT_OK) error = system_error(path);
  unlink(partial.c_str());
  return error;
}

}  // namespace whole_file

}  // namespace edgekit
