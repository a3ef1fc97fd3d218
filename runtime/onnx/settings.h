// Settings that come as text, read strictly: a budget that is misread is no budget. The rules are those of
// edgekit/sizes.py, so that a size means the same here and on the command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

// A decimal number without sign; nothing if the text is anything else, or the number is above `most`.
inline std::optional<uint64_t> parse_count(const std::string& text, uint64_t most) {
  if (text.empty()) return std::nullopt;
  uint64_t count = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    const uint64_t digit = static_cast<uint64_t>(c - '0');
    if (digit > most || count > (most - digit) / 10) return std::nullopt;
    count = count * 10 + digit;
  }
  return count;
}

// floor(0.DIGITS * unit), exactly, for a unit of up to 2^40.
inline std::optional<uint64_t> parse_fraction(const std::string& digits, uint64_t unit) {
  if (digits.empty() || digits.size() > 20) return std::nullopt;
  uint64_t sum = 0;
  for (size_t i = digits.size(); i-- > 0;) {
    if (digits[i] < '0' || digits[i] > '9') return std::nullopt;
    sum = (static_cast<uint64_t>(digits[i] - '0') * unit + sum) / 10;  // floors of floors are the floor of the whole
  }
  return sum;
}

// A size in bytes, 1 to 2^63 - 1: a number, or one with K, M, G or T (powers of 1024; "400M", ".3G", "1.5GiB").
inline std::optional<uint64_t> parse_size(const std::string& text) {
  constexpr uint64_t kMost = INT64_MAX;
  const char* space = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(space);
  if (begin == std::string::npos) return std::nullopt;
  std::string rest = text.substr(begin, text.find_last_not_of(space) + 1 - begin);
  for (char& c : rest) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;

  const size_t end = rest.find_first_not_of("0123456789.");
  std::string number = rest.substr(0, end), suffix = end == std::string::npos ? "" : rest.substr(end);
  suffix.erase(0, suffix.find_first_not_of(space));
  uint64_t unit = 1;
  const std::string units = "kmgt";
  if (const size_t at = suffix.empty() ? std::string::npos : units.find(suffix[0]); at != std::string::npos) {
    unit = uint64_t{1} << (10 * (at + 1));
    suffix.erase(0, 1);
  }
  if (!suffix.empty() && suffix != "b" && suffix != "ib") return std::nullopt;

  const size_t point = number.find('.');
  const std::string whole_digits = number.substr(0, point);
  if (whole_digits.size() > 20 || (whole_digits.empty() && point == std::string::npos)) return std::nullopt;
  const std::optional<uint64_t> whole = whole_digits.empty() ? 0 : parse_count(whole_digits, kMost / unit);
  const std::optional<uint64_t> part = point == std::string::npos ? 0 : parse_fraction(number.substr(point + 1), unit);
  if (!whole || !part || *part > kMost - *whole * unit) return std::nullopt;
  const uint64_t size = *whole * unit + *part;
  return size > 0 ? std::optional<uint64_t>(size) : std::nullopt;
}
