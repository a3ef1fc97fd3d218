// A small JSON reader for manifests: bounded depth, one allocation, no recursion on input size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/budget.h"
#include "core/result.h"

namespace edgekit {

enum class JsonType : uint8_t { null, boolean, number, string, array, object };

struct JsonNode {
  JsonType type = JsonType::null;
  uint32_t first_child = 0;  // 0: none (the root is nobody's child)
  uint32_t next = 0;         // next sibling, 0: none
  uint32_t count = 0;        // children
  std::string_view key;      // raw text between the quotes, when inside an object
  std::string_view text;     // raw text of a scalar, without quotes
};

// A parsed document. Views point into the text given to `parse`, which must outlive it.
class Json {
 public:
  static Result<Json> parse(std::string_view text, Budget& budget);
  const JsonNode& root() const { return at(0); }
  const JsonNode& at(uint32_t index) const { return reinterpret_cast<const JsonNode*>(nodes_.data())[index]; }
  // The member `key` of an object, or nullptr.
  const JsonNode* find(const JsonNode& object, std::string_view key) const;

 private:
  Outcome refuse_duplicates(uint32_t used, Budget& budget) const;
  Buffer nodes_;
};

// Scalars; an Error names what was expected. Integers must be exact and fit.
Result<uint64_t> json_uint(const JsonNode& node, uint64_t max);
Result<double> json_number(const JsonNode& node);
Result<std::string> json_string(const JsonNode& node);

}  // namespace edgekit
