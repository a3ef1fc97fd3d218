// Runs every test, or those whose name contains argv[1].
#include <cstdio>
#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  int ran = 0;
  for (auto* c = edgekit::test::first_case; c != nullptr; c = c->next) {
    if (argc > 1 && std::strstr(c->name, argv[1]) == nullptr) continue;
    const int before = edgekit::test::failures;
    c->run();
    std::printf("%s %s\n", edgekit::test::failures == before ? "ok  " : "FAIL", c->name);
    ++ran;
  }
  std::printf("%d tests, %d failures\n", ran, edgekit::test::failures);
  return edgekit::test::failures == 0 && ran > 0 ? 0 : 1;
}
