#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "io/retries.h"

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
  if (!S_ISREG(info.st_mode)) {
    return fail(EDGEKIT_CORRUPT, path + " is not a regular file; convert the checkpoint again");
  }
  return static_cast<uint64_t>(info.st_size);
}

// Opens without waiting: a pipe in a file's place would otherwise block until somebody writes to it.
int open_file(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | flags);
  struct stat info;
  if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);  // reads of the file itself wait as usual
  }
  return fd;
}

}  // namespace

File::~File() {
  if (fd_.load() >= 0) close(fd_.load());
  if (spare_fd_ >= 0) close(spare_fd_);
}

Outcome File::open(const std::string& path, uint32_t io_mode) {
  path_ = path;
  const bool want_direct = io_mode != EDGEKIT_IO_BUFFERED;
  int fd = open_file(path, want_direct ? O_DIRECT : 0);
  bool direct = want_direct && O_DIRECT != 0;
  if (fd < 0 && errno == EINVAL && io_mode == EDGEKIT_IO_AUTO) {
    fd = open_file(path, 0);
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
bool File::fall_back(int used) {
  if (!may_fall_back_) return false;
  if (used != fd_.load()) return true;  // another reader was first
  if (!direct()) return false;          // a buffered read was refused: there is nothing to fall back to
  const int fd = open_file(path_, 0);
  if (fd < 0) return false;
  int expected = used;
  if (fd_.compare_exchange_strong(expected, fd)) {
    spare_fd_ = used;
    direct_.store(false);
  } else {
    close(fd);
  }
  return true;
}

Outcome File::read(uint64_t offset, uint64_t size, uint8_t* out) {
  uint64_t done = 0;
  Retries retries;
  while (done < size) {
    const int fd = fd_.load();
    const ssize_t got = pread(fd, out + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      const int code = errno;
      if (retries.again(code) || (code == EINVAL && fall_back(fd))) continue;
      return cannot("read", path_, code);
    }
    retries.progress();
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

Result<std::string> read_text(const std::string& path, uint64_t limit, Budget& budget, uint32_t copies,
                              const char* what) {
  const int fd = open_file(path, 0);
  if (fd < 0) return cannot("open", path, errno);
  auto size = regular_size(fd, path);
  if (size.ok() && size.value() > limit) {
    size = fail(EDGEKIT_CORRUPT, path + " has more than " + std::to_string(limit) + " bytes, which " + what +
                                     " never has; convert the checkpoint again");
  }
  if (size.ok()) {
    auto granted = budget.take(copies * size.value(), what);
    if (!granted.ok()) size = granted.error();
  }
  if (!size.ok()) {
    close(fd);
    return size.error();
  }
  std::string text(size.value(), '\0');
  uint64_t done = 0;
  Retries retries;
  while (done < text.size()) {
    const ssize_t got = ::read(fd, &text[done], text.size() - done);
    if (got < 0 && retries.again(errno)) continue;
    if (got <= 0) break;
    retries.progress();
    done += static_cast<uint64_t>(got);
  }
  close(fd);
  if (done < text.size()) {
    budget.give(copies * text.size());
    return fail(EDGEKIT_IO, path + " could not be read whole");
  }
  return text;
}

}  // namespace edgekit
