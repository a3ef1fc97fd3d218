// What every fuzz target shares. A target defines `run`, which must come back: with a value, or with an
// Error that has a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/result.h"

namespace edgekit::fuzz {

void run(std::string_view input);

// Ends the program, as a crash does, when a property does not hold.
inline void require(bool condition, const char* property) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", property);
  std::abort();
}

inline void require_message(const Error& error) { require(!error.message.empty(), "an error has a message"); }

// A manifest's text under a first line that fits it; the builds for fuzzing take zero for every checksum.
inline std::string sign(std::string_view rest) { return "{\"checksum\":\"0000000000000000\",\n" + std::string(rest); }

// Changes `data` [size], which has room for `room` bytes, and returns its new size. The same seed does the same.
size_t mutate(uint8_t* data, size_t size, size_t room, uint64_t seed);

}  // namespace edgekit::fuzz
