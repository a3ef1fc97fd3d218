// Mutations that keep JSON mostly whole: values and lines are replaced, swapped, doubled and left out.
#include <algorithm>
#include <cstring>
#include <vector>

#include "fuzz/target.h"

namespace edgekit::fuzz {

namespace {

constexpr const char* kValues[] = {"0",    "1",     "31",    "4095", "65536", "4294967295", "4294967296",
                                   "-1",   "1e300", "1e999", "0.5",  "null",  "[]",         "{}",
                                   "\"\"", "true",  "false", "[[",   "1e-5",  "16777216",   "18446744073709551615"};
constexpr uint64_t kNumbers[] = {0, 1, 127, 128, 255, 4096, 65535, 0x7fffffff, 0x80000000, 0xffffffff, ~uint64_t{0}};

struct Random {
  uint64_t state;
  uint64_t next(uint64_t below) {  // splitmix64
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return below == 0 ? 0 : (z ^ z >> 31) % below;
  }
};

struct Span {
  size_t begin, end;
};

// A JSON scalar: what follows a colon, up to a comma or a line's end.
Span scalar(const std::string& text, Random& random) {
  const size_t colon = text.find(':', random.next(text.size() + 1));
  if (colon == std::string::npos) return {0, 0};
  const size_t begin = std::min(text.size(), colon + 1);
  return {begin, std::min(text.size(), text.find_first_of(",\n}]", begin))};
}

Span line(const std::string& text, Random& random) {
  const size_t at = random.next(text.size() + 1);
  const size_t begin = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;  // npos + 1 is 0
  const size_t end = text.find('\n', begin);
  return {begin, end == std::string::npos ? text.size() : end + 1};
}

void step(std::string& text, Random& random) {
  const size_t at = random.next(text.size());
  const size_t count = std::min<size_t>(text.size() - at, 1 + random.next(16));
  switch (random.next(9)) {
    case 0: text[at] = static_cast<char>(text[at] ^ (1 << random.next(8))); break;
    case 1: text[at] = static_cast<char>(random.next(256)); break;
    case 2: text.erase(at, count); break;
    case 3: text.insert(random.next(text.size()), text.substr(at, count)); break;
    case 4: {
      const uint64_t number = kNumbers[random.next(std::size(kNumbers))];
      std::memcpy(&text[at], &number, std::min<size_t>(text.size() - at, random.next(2) == 0 ? 4 : 8));
      break;
    }
    case 5: {
      const Span s = scalar(text, random);
      text.replace(s.begin, s.end - s.begin, kValues[random.next(std::size(kValues))]);
      break;
    }
    case 6: {
      const Span from = scalar(text, random);
      const std::string value = text.substr(from.begin, from.end - from.begin);
      const Span to = scalar(text, random);
      text.replace(to.begin, to.end - to.begin, value);
      break;
    }
    case 7: {
      const Span s = line(text, random);
      text.erase(s.begin, s.end - s.begin);
      break;
    }
    default: {
      const Span s = line(text, random);
      text.insert(s.begin, text.substr(s.begin, s.end - s.begin));
    }
  }
}

}  // namespace

size_t mutate(uint8_t* data, size_t size, size_t room, uint64_t seed) {
  Random random{seed};
  std::string text(reinterpret_cast<const char*>(data), size);
  for (uint64_t steps = 1 + random.next(4); steps > 0; --steps) {
    if (text.empty()) text = "{}";
    step(text, random);
  }
  const size_t kept = std::min(text.size(), room);
  std::memcpy(data, text.data(), kept);
  return kept;
}

}  // namespace edgekit::fuzz
