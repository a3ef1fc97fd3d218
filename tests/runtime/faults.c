/* Preloaded by tests/runtime/test_faults.py: reads of flash.bin fail, come short or come late. FAULT is
 * "eio:N" (the Nth read and all after it), "late:N" (they fail a while after they began), "short" (half of what was asked for), "slow:MICROSECONDS", "eagain" or
 * "eintr" (every read), or "einval": every direct read is refused, the first at once and the others later, when the
 * first reader has already gone over to buffered reads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_flash(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof(path) - 1);
  if (n < 0) return 0;
  path[n] = '\0';
  return strstr(path, "flash.bin") != NULL;
}

static int reads = 0;

/* The next read is the first again. Returns how many there were since the last call. */
int restart_faults(void) { return __sync_lock_test_and_set(&reads, 0); }

/* What to do with a read of `size` bytes: -1 fail with errno, else how many bytes of it to do. */
static ssize_t allowed(int fd, size_t size) {
  const char* fault = getenv("FAULT");
  if (fault == NULL || !is_flash(fd)) return (ssize_t)size;
  const int count = __sync_add_and_fetch(&reads, 1);
  errno = EIO;
  if (strncmp(fault, "eio:", 4) == 0) return count >= atoi(fault + 4) ? -1 : (ssize_t)size;
  if (strncmp(fault, "late:", 5) == 0 && count >= atoi(fault + 5)) {
    usleep(3000);
    return errno = EIO, -1;
  }
  if (strcmp(fault, "eagain") == 0) return errno = EAGAIN, -1;
  if (strcmp(fault, "eintr") == 0) return errno = EINTR, -1;
  if (strcmp(fault, "einval") == 0 && (fcntl(fd, F_GETFL) & O_DIRECT) != 0) {
    if (count > 1) usleep(100000);
    return errno = EINVAL, -1;
  }
  if (strncmp(fault, "slow:", 5) == 0) usleep((useconds_t)atoi(fault + 5));
  if (strcmp(fault, "short") == 0 && size > 4096) return (ssize_t)(size / 2 / 4096 * 4096);
  return (ssize_t)size;
}

ssize_t pread(int fd, void* to, size_t size, off_t at) {
  ssize_t (*real)(int, void*, size_t, off_t) = dlsym(RTLD_NEXT, "pread");
  const ssize_t n = allowed(fd, size);
  if (n < 0) return -1;
  return real(fd, to, (size_t)n, at);
}

ssize_t preadv(int fd, const struct iovec* pieces, int count, off_t at) {
  ssize_t (*real)(int, const struct iovec*, int, off_t) = dlsym(RTLD_NEXT, "preadv");
  size_t size = 0;
  for (int i = 0; i < count; ++i) size += pieces[i].iov_len;
  const ssize_t n = allowed(fd, size);
  if (n < 0) return -1;
  if ((size_t)n == size) return real(fd, pieces, count, at);
  struct iovec first = pieces[0];
  if (first.iov_len > (size_t)n) first.iov_len = (size_t)n;
  return real(fd, &first, 1, at);
}

ssize_t pread64(int fd, void* to, size_t size, off_t at) { return pread(fd, to, size, at); }
ssize_t preadv64(int fd, const struct iovec* pieces, int count, off_t at) { return preadv(fd, pieces, count, at); }
