// Structs of callers that were built with another version of edgekit.h: shorter ones are older, longer ones newer.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "core/result.h"

namespace edgekit {

constexpr uint32_t kMostStructBytes = 4096;  // what lies beyond was never a struct_size

// The size that a caller's struct says it has.
inline Result<uint32_t> struct_size(const void* given, const char* name) {
  uint32_t size = 0;
  if (given == nullptr) return fail(EDGEKIT_INVALID_ARGUMENT, std::string(name) + " must not be NULL");
  std::memcpy(&size, given, sizeof(size));
  if (size == 0 || size % 8 != 0 || size > kMostStructBytes) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                std::string(name) + ".struct_size is " + std::to_string(size) + "; set it to sizeof(" + name + ")");
  }
  return size;
}

// Fields that the caller's struct does not have are zero in `out`; what this library does not know must be zero.
template <class T>
Outcome copy_in(const void* given, T& out, const char* name) {
  static_assert(sizeof(T) % 8 == 0, "no field may be cut in half");
  uint32_t size;
  EK_ASSIGN(size, struct_size(given, name));
  const auto* bytes = static_cast<const uint8_t*>(given);
  for (uint32_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      return fail(EDGEKIT_UNSUPPORTED, std::string(name) + " sets a field that this version of libedgekit (" +
                                           EDGEKIT_VERSION_STRING + ") does not know; install a newer one");
    }
  }
  out = T{};
  std::memcpy(&out, given, std::min<size_t>(size, sizeof(T)));
  out.struct_size = sizeof(T);
  return Nothing{};
}

// As much as the caller has room for; zeros where the caller's struct has fields that this library does not know.
template <class T>
Outcome copy_out(const T& from, void* given, const char* name) {
  static_assert(sizeof(T) % 8 == 0, "no field may be cut in half");
  uint32_t size;
  EK_ASSIGN(size, struct_size(given, name));
  const size_t known = std::min<size_t>(size, sizeof(T));
  std::memcpy(given, &from, known);
  std::memset(static_cast<uint8_t*>(given) + known, 0, size - known);
  std::memcpy(given, &size, sizeof(size));
  return Nothing{};
}

}  // namespace edgekit
