// Positioned reads of one file, bypassing the page cache where the platform allows.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "core/budget.h"
#include "core/result.h"

namespace edgekit {

class File {
 public:
  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  // `io_mode` is EDGEKIT_IO_*; direct reads need offsets, sizes and memory aligned to 4096, which
  // every unit of a bundle is.
  Outcome open(const std::string& path, uint32_t io_mode);
  // Reads exactly `size` bytes; a short file is an error, never a partial success. Thread-safe.
  Outcome read(uint64_t offset, uint64_t size, uint8_t* out);
  uint64_t size() const { return size_; }
  bool direct() const { return direct_.load(); }
  uint64_t bytes_read() const { return bytes_read_.load(); }

  // For AsyncReader, which reads through the descriptor itself.
  int fd() const { return fd_.load(); }
  const std::string& path() const { return path_; }
  void count(uint64_t bytes) { bytes_read_.fetch_add(bytes); }
  // After a direct read through `fd` was refused: true when the read may be tried again through fd(),
  // because this call, or another reader before it, switched to buffered reads.
  bool fall_back(int fd);

 private:
  std::string path_;
  std::atomic<int> fd_{-1};
  int spare_fd_ = -1;  // the direct descriptor after a fallback, closed with the file
  uint64_t size_ = 0;
  bool may_fall_back_ = false;
  std::atomic<bool> direct_{false};
  std::atomic<uint64_t> bytes_read_{0};
};

// A whole small file as text, at most `limit` bytes. The budget is asked for `copies` times its size before anything
// is read; the caller gives that back.
Result<std::string> read_text(const std::string& path, uint64_t limit, Budget& budget, uint32_t copies,
                              const char* what);

}  // namespace edgekit
