#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

namespace edgekit {

namespace {

Error cannot(const char* what, const std::string& path, int code) {
  const edgekit_status status = code == ENOENT || code == EACCES ? EDGEKIT_NOT_FOUND : EDGEKIT_IO;
  return fail(status, std::string("cannot ") + what + " " + path + ": " + std::strerror(code));
}

Result<uint64_t> regular_size(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return cannot("examine", path, errno);
  if (!S_ISREG(info.st_mode)) return fail(EDGEKIT_CORRUPT, path + " is not a regular file");
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

File::~File() {
  if (fd_.load() >= 0) close(fd_.load());
  if (spare_fd_ >= 0) close(spare_fd_);
}

Outcome File::open(const std::string& path, uint32_t io_mode) {
  path_ = path;
  const bool want_direct = io_mode != EDGEKIT_IO_BUFFERED;
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (want_direct ? O_DIRECT : 0));
  bool direct = want_direct && O_DIRECT != 0;
  if (fd < 0 && errno == EINVAL && io_mode == EDGEKIT_IO_AUTO) {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    direct = false;
  }
  if (fd < 0) return cannot("open", path, errno);
  fd_.store(fd);
#if defined(F_NOCACHE)
  if (want_direct) direct = fcntl(fd, F_NOCACHE, 1) == 0;
#endif
  direct_.store(direct);
  may_fall_back_ = io_mode == EDGEKIT_IO_AUTO;
  EK_ASSIGN(size_, regular_size(fd, path));
  return Nothing{};
}

// Some filesystems take O_DIRECT at open and refuse it at the first read. Readers on other threads
// may still use the old descriptor, so it stays open.
Outcome File::reopen_buffered() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return cannot("open", path_, errno);
  bool expected = true;
  if (direct_.compare_exchange_strong(expected, false)) {
    spare_fd_ = fd_.exchange(fd);
  } else {
    close(fd);
  }
  return Nothing{};
}

bool File::fall_back() { return !direct() || !may_fall_back_ ? false : reopen_buffered().ok(); }

Outcome File::read(uint64_t offset, uint64_t size, uint8_t* out) {
  uint64_t done = 0;
  while (done < size) {
    const ssize_t got = pread(fd_.load(), out + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EINVAL && direct() && may_fall_back_) {
        EK_TRY(reopen_buffered());
        continue;
      }
      return cannot("read", path_, errno);
    }
    if (got == 0) {
      return fail(EDGEKIT_IO,
                  path_ + " ends " + std::to_string(size - done) + " bytes too early; was it replaced or truncated?");
    }
    done += static_cast<uint64_t>(got);
    // A short direct read may stop off a sector boundary; begin again from the last whole one.
    if (direct() && done < size) done = done / 4096 * 4096;
    if (direct() && done < size && got < 4096) {
      return fail(EDGEKIT_IO, path_ + " ends too early; was it replaced or truncated?");
    }
  }
  bytes_read_.fetch_add(size);
  return Nothing{};
}

Result<std::string> read_text(const std::string& path, uint64_t limit) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return cannot("open", path, errno);
  auto size = regular_size(fd, path);
  if (!size.ok() || size.value() > limit) {
    close(fd);
    return size.ok() ? fail(EDGEKIT_CORRUPT, path + " is too large") : size.error();
  }
  std::string text(size.value(), '\0');
  uint64_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(fd, &text[done], text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<uint64_t>(got);
  }
  close(fd);
  if (done < text.size()) return fail(EDGEKIT_IO, path + " could not be read whole");
  return text;
}

}  // namespace edgekit
