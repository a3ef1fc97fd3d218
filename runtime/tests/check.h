// The smallest test harness that serves: TEST registers, CHECK reports and goes on.
#pragma once

#include <cstdio>

namespace edgekit::test {

struct Case {
  const char* name;
  void (*run)();
  Case* next;
};
inline Case* first_case = nullptr;
inline int failures = 0;

struct Register {
  Register(Case& c) {
    c.next = first_case;
    first_case = &c;
  }
};

}  // namespace edgekit::test

#define TEST(name)                                                     \
  static void test_##name();                                           \
  static edgekit::test::Case case_##name{#name, test_##name, nullptr}; \
  static edgekit::test::Register register_##name(case_##name);         \
  static void test_##name()

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++edgekit::test::failures;                                          \
    }                                                                     \
  } while (0)
