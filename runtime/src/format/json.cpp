#include "format/json.h"

#include <algorithm>
#include <cmath>

namespace edgekit {

namespace {
constexpr int kMaxDepth = 32;

Error bad(const std::string& what) { return fail(EDGEKIT_CORRUPT, "not valid JSON: " + what); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

// Characters of the escape that `s` begins with, behind its backslash; 0 if it is none.
size_t escape_length(std::string_view s) {
  if (s.empty()) return 0;
  if (s[0] != 'u') return std::string_view("\"\\/bfnrt").find(s[0]) != std::string_view::npos ? 1 : 0;
  return s.size() >= 5 && std::all_of(s.begin() + 1, s.begin() + 5, is_hex) ? 5 : 0;
}

// Bytes of the UTF-8 character that `s` begins with; 0 if it is none (RFC 3629: the shortest form, no surrogates).
size_t character_length(std::string_view s) {
  const auto byte = [&](size_t i) -> uint32_t { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0; };
  if (byte(0) < 0x80) return 1;
  const size_t length = byte(0) >> 5 == 6 ? 2 : byte(0) >> 4 == 14 ? 3 : byte(0) >> 3 == 30 ? 4 : 0;
  uint32_t point = byte(0) & 0xFFu >> (length + 1);
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return 0;
    point = point << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  return point < kLeast[length] || point > 0x10FFFF || point >> 11 == 0xD800 >> 11 ? 0 : length;
}
}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, JsonNode* nodes, uint32_t capacity)
      : text_(text), nodes_(nodes), capacity_(capacity) {}

  // Iterative: `stack_` holds the open containers, `last_` the newest child of each.
  Outcome run() {
    EK_TRY(value({}));
    while (depth_ > 0) {
      skip_space();
      JsonNode& open = nodes_[stack_[depth_ - 1]];
      const char close = open.type == JsonType::array ? ']' : '}';
      if (peek() == close) {
        ++at_;
        --depth_;
        continue;
      }
      if (open.count > 0) {
        if (peek() != ',') return bad("expected ',' or a closing bracket");
        ++at_;
        skip_space();
      }
      std::string_view key;
      if (open.type == JsonType::object) {
        EK_ASSIGN(key, quoted());
        if (key.find('\\') != std::string_view::npos) return bad("an escape in the key \"" + std::string(key) + "\"");
        skip_space();
        if (peek() != ':') return bad("expected ':'");
        ++at_;
      }
      EK_TRY(value(key));
    }
    skip_space();
    if (at_ != text_.size()) return bad("text after the end");
    return Nothing{};
  }
  uint32_t used() const { return used_; }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++at_;
  }

  Result<std::string_view> quoted() {
    if (peek() != '"') return bad("expected a string");
    const size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) return bad("control character in a string");
      const bool escape = text_[at_] == '\\';
      at_ += escape;
      const size_t length = escape ? escape_length(text_.substr(at_)) : character_length(text_.substr(at_));
      if (length == 0) return bad(escape ? "an unknown escape in a string" : "a string that is not UTF-8");
      at_ += length;
    }
    if (at_ >= text_.size()) return bad("unterminated string");
    return text_.substr(begin, at_++ - begin);
  }

  Outcome value(std::string_view key) {
    skip_space();
    if (used_ == capacity_) return bad("too many values");
    const uint32_t index = used_++;
    JsonNode& node = nodes_[index];
    node = JsonNode{};
    node.key = key;
    if (depth_ > 0) {
      JsonNode& parent = nodes_[stack_[depth_ - 1]];
      (parent.count++ == 0 ? parent.first_child : nodes_[last_[depth_ - 1]].next) = index;
      last_[depth_ - 1] = index;
    }
    const char c = peek();
    if (c == '{' || c == '[') {
      if (depth_ == kMaxDepth) return bad("nested too deeply");
      node.type = c == '{' ? JsonType::object : JsonType::array;
      ++at_;
      stack_[depth_] = index;
      last_[depth_++] = 0;
      return Nothing{};
    }
    if (c == '"') {
      node.type = JsonType::string;
      EK_ASSIGN(node.text, quoted());
      return Nothing{};
    }
    const size_t begin = at_;
    while (is_digit(peek()) || peek() == '-' || peek() == '+' || peek() == '.' || (peek() >= 'a' && peek() <= 'z') ||
           peek() == 'E') {
      ++at_;
    }
    node.text = text_.substr(begin, at_ - begin);
    if (node.text == "null") return Nothing{};
    if (node.text == "true" || node.text == "false") {
      node.type = JsonType::boolean;
      return Nothing{};
    }
    node.type = JsonType::number;
    return json_number(node).ok() ? Outcome(Nothing{}) : Outcome(bad("expected a value"));
  }

  std::string_view text_;
  JsonNode* nodes_;
  uint32_t capacity_;
  uint32_t used_ = 0;
  size_t at_ = 0;
  int depth_ = 0;
  uint32_t stack_[kMaxDepth];
  uint32_t last_[kMaxDepth];
};

// A key that stands twice in an object means its first value to one reader and its last to another.
Outcome Json::refuse_duplicates(uint32_t used, Budget& budget) const {
  uint32_t most = 0;
  for (uint32_t i = 0; i < used; ++i) most = at(i).type == JsonType::object ? std::max(most, at(i).count) : most;
  Buffer keys;  // string_view [most]
  EK_ASSIGN(keys, Buffer::allocate(budget, uint64_t{most} * sizeof(std::string_view), "keys of the manifest"));
  auto* list = reinterpret_cast<std::string_view*>(keys.data());
  for (uint32_t i = 0; i < used; ++i) {
    if (at(i).type != JsonType::object) continue;
    uint32_t count = 0;
    for (uint32_t c = at(i).first_child; c != 0; c = at(c).next) list[count++] = at(c).key;
    std::sort(list, list + count);
    const auto* twice = std::adjacent_find(list, list + count);
    if (twice != list + count) return bad("the key \"" + std::string(*twice) + "\" stands twice in an object");
  }
  return Nothing{};
}

Result<Json> Json::parse(std::string_view text, Budget& budget) {
  if (text.size() > (size_t{1} << 30)) return bad("larger than 1 GiB");
  uint64_t values = 2;  // every value but the first follows one of these
  for (char c : text) values += c == ',' || c == '[' || c == '{';
  Json out;
  EK_ASSIGN(out.nodes_, Buffer::allocate(budget, values * sizeof(JsonNode), "manifest tree"));
  JsonNode* nodes = reinterpret_cast<JsonNode*>(out.nodes_.data());
  JsonParser parser(text, nodes, static_cast<uint32_t>(values));
  EK_TRY(parser.run());
  EK_TRY(out.refuse_duplicates(parser.used(), budget));
  return out;
}

const JsonNode* Json::find(const JsonNode& object, std::string_view key) const {
  if (object.type != JsonType::object) return nullptr;
  for (uint32_t i = object.first_child; i != 0; i = at(i).next) {
    if (at(i).key == key) return &at(i);
  }
  return nullptr;
}

Result<uint64_t> json_uint(const JsonNode& node, uint64_t max) {
  if (node.type != JsonType::number || node.text.empty() || node.text.size() > 20) {
    return fail(EDGEKIT_CORRUPT, "expected a whole number");
  }
  uint64_t value = 0;
  for (char c : node.text) {
    const uint64_t digit = static_cast<uint64_t>(c - '0');
    if (!is_digit(c) || value > (UINT64_MAX - digit) / 10) {
      return fail(EDGEKIT_CORRUPT, "expected a whole number");
    }
    value = value * 10 + digit;
  }
  if (value > max) return fail(EDGEKIT_CORRUPT, "number out of range");
  return value;
}

Result<double> json_number(const JsonNode& node) {
  if (node.type != JsonType::number) return fail(EDGEKIT_CORRUPT, "expected a number");
  std::string_view s = node.text;
  size_t i = 0;
  const bool negative = i < s.size() && s[i] == '-';
  i += negative;
  const size_t digits_begin = i;
  double mantissa = 0;
  int exponent = 0;
  // A digit far behind the precision of a double only moves the point.
  const auto take = [&](int digit) {
    const bool counts = mantissa < 1e30;
    mantissa = counts ? mantissa * 10 + digit : mantissa;
    exponent += !counts;
  };
  for (; i < s.size() && is_digit(s[i]); ++i) take(s[i] - '0');
  const bool zero_leads = i > digits_begin + 1 && s[digits_begin] == '0';
  if (i == digits_begin || zero_leads) return fail(EDGEKIT_CORRUPT, "expected a number");
  if (i < s.size() && s[i] == '.') {
    const size_t begin = ++i;
    for (; i < s.size() && is_digit(s[i]); ++i, --exponent) take(s[i] - '0');
    if (i == begin) return fail(EDGEKIT_CORRUPT, "expected a number");
  }
  if (i < s.size() && (s[i] == 'e' || s[i] == 'E')) {
    ++i;
    const bool down = i < s.size() && s[i] == '-';
    i += i < s.size() && (s[i] == '-' || s[i] == '+');
    int e = 0;
    const size_t begin = i;
    for (; i < s.size() && is_digit(s[i]); ++i) e = e < 100000 ? e * 10 + (s[i] - '0') : e;
    if (i == begin) return fail(EDGEKIT_CORRUPT, "expected a number");
    exponent += down ? -e : e;
  }
  if (i != s.size()) return fail(EDGEKIT_CORRUPT, "expected a number");
  const double scale = std::pow(10.0, exponent < 0 ? -exponent : exponent);
  const double value = exponent < 0 ? mantissa / scale : mantissa * scale;
  if (!std::isfinite(value)) return fail(EDGEKIT_CORRUPT, "number out of range");
  return negative ? -value : value;
}

Result<std::string> json_string(const JsonNode& node) {
  if (node.type != JsonType::string) return fail(EDGEKIT_CORRUPT, "expected a string");
  // Names and paths that the runtime reads are plain; texts with escapes are for people only.
  if (node.text.find('\\') != std::string_view::npos) {
    return fail(EDGEKIT_CORRUPT, "unexpected escape in a name");
  }
  return std::string(node.text);
}

}  // namespace edgekit
