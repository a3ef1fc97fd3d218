/* Preloaded by tests/test_outputs.py. SHORT_WRITES: every write takes at most half of what it is given.
 * KILL_AT=N: the process dies just before the Nth rename, exchange, unlink or rmdir. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t write(int fd, const void* from, size_t size) {
  ssize_t (*real)(int, const void*, size_t) = dlsym(RTLD_NEXT, "write");
  return real(fd, from, getenv("SHORT_WRITES") && size > 64 ? size / 2 : size);
}

static void count(void) {
  static int calls = 0;
  const char* at = getenv("KILL_AT");
  if (at != NULL && ++calls == atoi(at)) _exit(137);
}

int rename(const char* from, const char* to) {
  count();
  return ((int (*)(const char*, const char*))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  count();
  return ((int (*)(int, const char*, int, const char*, unsigned))dlsym(RTLD_NEXT, "renameat2"))(a, from, b, to, flags);
}
int unlink(const char* path) {
  count();
  return ((int (*)(const char*))dlsym(RTLD_NEXT, "unlink"))(path);
}
int unlinkat(int at, const char* path, int flags) {
  count();
  return ((int (*)(int, const char*, int))dlsym(RTLD_NEXT, "unlinkat"))(at, path, flags);
}
int rmdir(const char* path) {
  count();
  return ((int (*)(const char*))dlsym(RTLD_NEXT, "rmdir"))(path);
}
