// Runs every test, or those whose name contains one of the arguments.
#include <cstdio>
#include <cstring>

#include "check.h"

static bool is_named(const char* name, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strstr(name, argv[i]) != nullptr) return true;
  }
  return argc == 1;
}

int main(int argc, char** argv) {
  int ran = 0;
  for (auto* c = edgekit::test::first_case; c != nullptr; c = c->next) {
    if (!is_named(c->name, argc, argv)) continue;
    const int before = edgekit::test::failures;
    c->run();
    std::printf("%s %s\n", edgekit::test::failures == before ? "ok  " : "FAIL", c->name);
    ++ran;
  }
  std::printf("%d tests, %d failures\n", ran, edgekit::test::failures);
  return edgekit::test::failures == 0 && ran > 0 ? 0 : 1;
}
