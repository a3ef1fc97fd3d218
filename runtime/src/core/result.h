// Errors are values: a status for programs, one line with cause and cure for people.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "edgekit/edgekit.h"

namespace edgekit {

struct Error {
  edgekit_status status = EDGEKIT_OK;
  std::string message;
};

struct Nothing {};

// For a mistake in this library: somebody took the value of what had failed.
[[noreturn]] inline void abort_without_value(const Error& error) {
  std::fprintf(stderr, "edgekit: the value of a failed call was used: %s\n", error.message.c_str());
  std::abort();
}

// Either a value or an Error; `Outcome` below is the form without a value.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::move(error)) {}
  bool ok() const { return error_.status == EDGEKIT_OK; }
  // Only after ok(); ends the program otherwise, rather than go on with a value that is none.
  T& value() {
    if (!ok()) abort_without_value(error_);
    return value_;
  }
  const Error& error() const { return error_; }

 private:
  T value_{};
  Error error_;
};

using Outcome = Result<Nothing>;

inline Error fail(edgekit_status status, std::string message) { return {status, std::move(message)}; }

}  // namespace edgekit

#define EK_CONCAT_(a, b) a##b
#define EK_CONCAT(a, b) EK_CONCAT_(a, b)
// EK_TRY(expr): leaves the function with the error of `expr`, if it has one.
#define EK_TRY(expr)                                 \
  do {                                               \
    auto ek_outcome = (expr);                        \
    if (!ek_outcome.ok()) return ek_outcome.error(); \
  } while (0)
// EK_ASSIGN(target, expr): the same, and otherwise moves the value into `target`.
#define EK_ASSIGN(target, expr)                                                              \
  auto EK_CONCAT(ek_result_, __LINE__) = (expr);                                             \
  if (!EK_CONCAT(ek_result_, __LINE__).ok()) return EK_CONCAT(ek_result_, __LINE__).error(); \
  target = std::move(EK_CONCAT(ek_result_, __LINE__).value())
