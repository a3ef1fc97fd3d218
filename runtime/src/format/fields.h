// Typed access to the members of a manifest's objects, and to what they name. Every access says what
// was wrong with which field.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "format/json.h"
#include "format/manifest.h"

namespace edgekit {

constexpr uint32_t kMaxSize = 1u << 24;  // any dimension of a model

// Where the vectors and matrices of a manifest are, by name.
struct Names {
  std::unordered_map<std::string, int32_t> vectors, matrices;
};

class Fields {
 protected:
  Fields(const Json& json, Names& names, Manifest& out) : json_(json), names_(names), out_(out) {}

  Error bad(std::string_view key, const std::string& why) const {
    return fail(EDGEKIT_CORRUPT, "manifest field '" + std::string(key) + "': " + why);
  }

  Result<const JsonNode*> member(const JsonNode& object, std::string_view key, JsonType type) const {
    const JsonNode* node = json_.find(object, key);
    if (node == nullptr) return bad(key, "missing");
    if (node->type != type) return bad(key, "of the wrong type");
    return node;
  }
  bool has(const JsonNode& object, std::string_view key) const {
    const JsonNode* node = json_.find(object, key);
    return node != nullptr && node->type != JsonType::null;
  }
  Result<uint64_t> integer(const JsonNode& object, std::string_view key, uint64_t max, uint64_t min = 0) const {
    const JsonNode* node;
    EK_ASSIGN(node, member(object, key, JsonType::number));
    auto value = json_uint(*node, max);
    if (!value.ok() || value.value() < min) return bad(key, "out of range");
    return value.value();
  }
  Result<uint32_t> size(const JsonNode& object, std::string_view key, uint32_t min = 1) const {
    uint64_t value;
    EK_ASSIGN(value, integer(object, key, kMaxSize, min));
    return static_cast<uint32_t>(value);
  }
  Result<double> number(const JsonNode& object, std::string_view key, double otherwise) const {
    const JsonNode* node = json_.find(object, key);
    if (node == nullptr || node->type == JsonType::null) return otherwise;
    auto value = json_number(*node);
    if (!value.ok()) return bad(key, value.error().message);
    return value.value();
  }
  Result<std::string> string(const JsonNode& object, std::string_view key) const {
    const JsonNode* node;
    EK_ASSIGN(node, member(object, key, JsonType::string));
    auto value = json_string(*node);
    if (!value.ok()) return bad(key, value.error().message);
    return std::move(value.value());
  }
  Result<bool> boolean(const JsonNode& object, std::string_view key) const {
    const JsonNode* node;
    EK_ASSIGN(node, member(object, key, JsonType::boolean));
    return node->text == "true";
  }
  Result<uint64_t> checksum(const JsonNode& object, std::string_view key) const {
    std::string text;
    EK_ASSIGN(text, string(object, key));
    uint64_t value = 0;
    for (char c : text) {
      const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
      if (!hex || text.size() != 16) return bad(key, "not 16 hex digits");
      value = value << 4 | static_cast<uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return value;
  }
  // A file of the bundle itself: a plain name, no folders, no way out.
  Result<std::string> file_name(const JsonNode& object, std::string_view key) const {
    std::string name;
    EK_ASSIGN(name, string(object, key));
    if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos) {
      return bad(key, "not a plain file name");
    }
    return name;
  }

  // References by name. `count` 0: any length. Absent or null is kNone only when `optional`.
  Result<int32_t> vector(const JsonNode& object, std::string_view key, uint64_t count, bool optional = false) const {
    if (optional && !has(object, key)) return int32_t{kNone};
    std::string name;
    EK_ASSIGN(name, string(object, key));
    const auto found = names_.vectors.find(name);
    if (found == names_.vectors.end()) return bad(key, "names no vector");
    const Vector& v = out_.vectors[static_cast<size_t>(found->second)];
    if (count != 0 && (v.count != count || v.half)) return bad(key, "names a vector of another shape");
    return found->second;
  }
  Result<int32_t> matrix_ref(const JsonNode& object, std::string_view key, uint32_t rows, uint32_t cols,
                             bool optional = false) const {
    if (optional && !has(object, key)) return int32_t{kNone};
    std::string name;
    EK_ASSIGN(name, string(object, key));
    return matrix_named(name, rows, cols, 1);
  }
  Result<int32_t> matrix_named(const std::string& name, uint32_t rows, uint32_t cols, int parts) const {
    const auto found = names_.matrices.find(name);
    if (found == names_.matrices.end()) return bad(name, "no such matrix");
    const Matrix& m = out_.matrices[static_cast<size_t>(found->second)];
    bool fits = m.part_count == parts && (rows == 0 || m.rows == rows);
    for (int i = 0; i < m.part_count; ++i) fits = fits && (cols == 0 || m.parts[i].cols == cols);
    if (!fits) return bad(name, "is a matrix of another shape");
    return found->second;
  }

  const Json& json_;
  Names& names_;
  Manifest& out_;
};

}  // namespace edgekit
