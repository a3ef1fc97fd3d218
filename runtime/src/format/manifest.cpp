#include "format/manifest.h"

#include <unordered_map>

#include "core/checksum.h"
#include "format/json.h"

namespace edgekit {

namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;
constexpr uint32_t kMaxSize = 1u << 24;  // any dimension of a model
constexpr uint32_t kMaxRowBytes = 1u << 30;

constexpr const char* kCodecNames[] = {
#define EK_CODEC(name, id, bits) id,
#include "kernels/kernels.inc"
#undef EK_CODEC
};

bool is_affine(Codec c) { return c == Codec::affine8 || c == Codec::affine4; }
bool is_palette(Codec c) { return c >= Codec::palette8; }

uint64_t record_bytes(const Part& p) {
  const uint64_t blocks = (uint64_t{p.cols} + kBlock - 1) / kBlock;
  uint64_t bytes = blocks * kCodecBits[static_cast<int>(p.codec)] * kBlock / 8;
  if (is_affine(p.codec)) {
    const uint64_t groups = (uint64_t{p.cols} + p.group_size - 1) / p.group_size;
    bytes += (groups * (p.symmetric ? 2 : 4) + 15) / 16 * 16;
  }
  return (bytes + 15) / 16 * 16;
}

class Reader {
 public:
  Reader(const Json& json, Manifest& out) : json_(json), out_(out) {}

  Outcome run() {
    const JsonNode& root = json_.root();
    std::string format;
    EK_ASSIGN(format, string(root, "format"));
    if (format != "edgekit") return fail(EDGEKIT_CORRUPT, "the manifest is not an edgekit manifest");
    uint64_t version;
    EK_ASSIGN(version, integer(root, "version", UINT32_MAX));
    if (version != kFormatVersion) {
      return fail(EDGEKIT_UNSUPPORTED, "bundle format version " + std::to_string(version) +
                                           " is not the version 1 that this runtime reads; convert "
                                           "the checkpoint again or update edgekit");
    }
    EK_TRY(files(root));
    EK_TRY(vectors(root));
    EK_TRY(matrices(root));
    return model(root);
  }

 private:
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

  Outcome files(const JsonNode& root) {
    const char* keys[2] = {"resident", "flash"};
    for (int i = 0; i < 2; ++i) {
      const JsonNode* node;
      EK_ASSIGN(node, member(root, keys[i], JsonType::object));
      EK_ASSIGN(out_.files[i], file_name(*node, "file"));
      EK_ASSIGN(out_.file_bytes[i], integer(*node, "bytes", kMaxBytes));
    }
    const JsonNode* units;
    EK_ASSIGN(units, member(root, "units", JsonType::object));
    EK_ASSIGN(out_.units_file, file_name(*units, "file"));
    EK_ASSIGN(out_.unit_count, integer(*units, "count", kMaxBytes / kUnitAlignment));
    EK_ASSIGN(out_.units_checksum, checksum(*units, "checksum"));
    return Nothing{};
  }

  Outcome vectors(const JsonNode& root) {
    const JsonNode *segment, *list;
    EK_ASSIGN(segment, member(root, "vectors", JsonType::object));
    EK_ASSIGN(out_.vectors_bytes, integer(*segment, "bytes", out_.file_bytes[0]));
    EK_ASSIGN(out_.vectors_checksum, checksum(*segment, "checksum"));
    EK_ASSIGN(list, member(*segment, "list", JsonType::array));
    out_.vectors.reserve(list->count);
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      Vector v;
      std::string dtype;
      EK_ASSIGN(v.name, string(json_.at(i), "name"));
      EK_ASSIGN(v.offset, integer(json_.at(i), "offset", out_.vectors_bytes));
      EK_ASSIGN(v.count, integer(json_.at(i), "count", kMaxBytes));
      EK_ASSIGN(dtype, string(json_.at(i), "dtype"));
      if (dtype != "f32" && dtype != "f16") return bad("dtype", "neither f32 nor f16");
      v.half = dtype == "f16";
      if (v.offset % 64 != 0 || v.count * (v.half ? 2 : 4) > out_.vectors_bytes - v.offset) {
        return bad(v.name, "lies outside its segment");
      }
      if (!vector_index_.emplace(v.name, static_cast<int32_t>(out_.vectors.size())).second) {
        return bad(v.name, "named twice");
      }
      out_.vectors.push_back(std::move(v));
    }
    return Nothing{};
  }

  Result<Part> part(const JsonNode& node, uint32_t rows) const {
    Part p;
    std::string codec;
    uint64_t bits;
    EK_ASSIGN(codec, string(node, "codec"));
    EK_ASSIGN(bits, integer(node, "bits", 64));
    int found = 0;
    while (found < static_cast<int>(Codec::count) && (codec != kCodecNames[found] || bits != kCodecBits[found])) {
      ++found;
    }
    if (found == static_cast<int>(Codec::count)) {
      return fail(EDGEKIT_UNSUPPORTED,
                  "codec '" + codec + "' with " + std::to_string(bits) + " bits is not one that this runtime knows");
    }
    p.codec = static_cast<Codec>(found);
    EK_ASSIGN(p.cols, size(node, "cols"));
    if (is_affine(p.codec)) {
      EK_ASSIGN(p.group_size, size(node, "group_size", kBlock));
      EK_ASSIGN(p.symmetric, boolean(node, "symmetric"));
      const bool power = (p.group_size & (p.group_size - 1)) == 0;
      if (!power || p.group_size < kBlock) return bad("group_size", "not 32, 64, 128, ...");
    }
    if (is_palette(p.codec)) {
      EK_ASSIGN(p.lut, vector(node, "lut", 0));
      EK_ASSIGN(p.lut_rows, size(node, "lut_rows"));
      const Vector& lut = out_.vectors[static_cast<size_t>(p.lut)];
      const uint64_t tables = (uint64_t{rows} + p.lut_rows - 1) / p.lut_rows;
      if (!lut.half || lut.count != tables << bits) return bad("lut", "of the wrong size");
    }
    const uint64_t bytes = record_bytes(p);
    if (bytes > kMaxRowBytes) return bad("cols", "too large");
    p.bytes = static_cast<uint32_t>(bytes);
    return p;
  }

  Outcome matrices(const JsonNode& root) {
    const JsonNode* list;
    EK_ASSIGN(list, member(root, "matrices", JsonType::array));
    out_.matrices.reserve(list->count);
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      Matrix m;
      EK_TRY(matrix(json_.at(i), m));
      if (!matrix_index_.emplace(m.name, static_cast<int32_t>(out_.matrices.size())).second) {
        return bad(m.name, "named twice");
      }
      out_.matrices.push_back(std::move(m));
    }
    return Nothing{};
  }

  Outcome matrix(const JsonNode& node, Matrix& m) {
    std::string file;
    EK_ASSIGN(m.name, string(node, "name"));
    EK_ASSIGN(file, string(node, "file"));
    if (file != out_.files[0] && file != out_.files[1]) return bad(m.name, "in an unknown file");
    m.file = file == out_.files[1];
    EK_ASSIGN(m.offset, integer(node, "offset", kMaxBytes));
    EK_ASSIGN(m.rows, size(node, "rows"));
    EK_ASSIGN(m.rows_per_unit, size(node, "rows_per_unit"));
    EK_ASSIGN(m.unit_stride, integer(node, "unit_stride", kMaxRowBytes, kUnitAlignment));
    EK_ASSIGN(m.first_unit, integer(node, "first_unit", out_.unit_count));
    const JsonNode* parts;
    EK_ASSIGN(parts, member(node, "parts", JsonType::array));
    if (parts->count < 1 || parts->count > 3) return bad(m.name, "must have one to three parts");
    m.part_count = 0;
    uint64_t stride = 0;
    for (uint32_t i = parts->first_child; i != 0; i = json_.at(i).next) {
      Part p;
      EK_ASSIGN(p, part(json_.at(i), m.rows));
      p.offset = static_cast<uint32_t>(stride);
      stride += p.bytes;
      m.parts[m.part_count++] = p;
    }
    if (stride > kMaxRowBytes) return bad(m.name, "has rows that are too large");
    m.row_stride = static_cast<uint32_t>(stride);
    m.units = (m.rows - 1) / m.rows_per_unit + 1;
    const bool aligned = m.offset % kUnitAlignment == 0 && m.unit_stride % kUnitAlignment == 0;
    if (!aligned || uint64_t{m.rows_per_unit} * m.row_stride > m.unit_stride) {
      return bad(m.name, "has units that do not hold its rows");
    }
    if (m.units > out_.unit_count - m.first_unit) return bad(m.name, "has units without checksums");
    const uint64_t end = out_.file_bytes[m.file];
    if (m.offset > end || m.bytes() > end - m.offset) return bad(m.name, "lies outside its file");
    return Nothing{};
  }

  // References by name. `count` 0: any length. Absent or null is kNone only when `optional`.
  Result<int32_t> vector(const JsonNode& object, std::string_view key, uint64_t count, bool optional = false) const {
    if (optional && !has(object, key)) return int32_t{kNone};
    std::string name;
    EK_ASSIGN(name, string(object, key));
    const auto found = vector_index_.find(name);
    if (found == vector_index_.end()) return bad(key, "names no vector");
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
    const auto found = matrix_index_.find(name);
    if (found == matrix_index_.end()) return bad(name, "no such matrix");
    const Matrix& m = out_.matrices[static_cast<size_t>(found->second)];
    bool fits = m.part_count == parts && (rows == 0 || m.rows == rows);
    for (int i = 0; i < m.part_count; ++i) fits = fits && (cols == 0 || m.parts[i].cols == cols);
    if (!fits) return bad(name, "is a matrix of another shape");
    return found->second;
  }

  Result<Norm> norm(const JsonNode& object, std::string_view key, uint32_t count, uint32_t head_dim = 0) const {
    Norm n;
    if (!has(object, key)) return n;
    const JsonNode* node;
    std::string kind;
    double eps;
    EK_ASSIGN(node, member(object, key, JsonType::object));
    EK_ASSIGN(kind, string(*node, "kind"));
    if (kind != "rms" && kind != "layer") return bad(key, "of an unknown kind");
    n.kind = kind == "rms" ? Norm::rms : Norm::layer;
    EK_ASSIGN(eps, number(*node, "eps", 1e-5));
    n.eps = static_cast<float>(eps);
    if (head_dim != 0) {
      EK_ASSIGN(n.per_head, boolean(*node, "per_head"));
    }
    const uint32_t width = n.per_head ? head_dim : count;
    EK_ASSIGN(n.weight, vector(*node, "weight", width, true));
    EK_ASSIGN(n.bias, vector(*node, "bias", width, true));
    return n;
  }

  Result<Rope> rope(const JsonNode& node) const {
    Rope r;
    std::string kind;
    double scale;
    EK_ASSIGN(kind, string(node, "kind"));
    EK_ASSIGN(r.dim, size(node, "dim", 2));
    if (r.dim % 2 != 0) return bad("dim", "odd");
    EK_ASSIGN(scale, number(node, "scale", 1.0));
    r.scale = static_cast<float>(scale);
    EK_ASSIGN(r.inv_freq, vector(node, "inv_freq", r.dim / 2));
    if (kind == "dynamic") {
      r.kind = Rope::dynamic;
      EK_ASSIGN(r.switch_length, size(node, "switch_length"));
      EK_ASSIGN(r.base, number(node, "base", 10000.0));
      EK_ASSIGN(r.factor, number(node, "factor", 1.0));
    } else if (kind != "fixed") {
      return fail(EDGEKIT_UNSUPPORTED, "rope kind '" + kind + "' is unknown to this runtime");
    }
    if (has(node, "long_inv_freq")) {
      EK_ASSIGN(r.long_inv_freq, vector(node, "long_inv_freq", r.dim / 2));
      EK_ASSIGN(r.switch_length, size(node, "switch_length"));
    }
    return r;
  }

  Outcome attention(const JsonNode& node, Block& b) {
    const uint32_t hidden = out_.hidden_size;
    double scale, softcap;
    EK_ASSIGN(b.heads, size(node, "heads"));
    EK_ASSIGN(b.kv_heads, size(node, "kv_heads"));
    EK_ASSIGN(b.head_dim, size(node, "head_dim"));
    const uint64_t width = uint64_t{b.heads} * b.head_dim;
    if (b.heads % b.kv_heads != 0 || width > kMaxSize) return bad("heads", "do not divide");
    const uint32_t q = static_cast<uint32_t>(width), kv = b.kv_heads * b.head_dim;
    EK_ASSIGN(b.window, size(node, "window", 0));
    EK_ASSIGN(scale, number(node, "scale", 1.0));
    EK_ASSIGN(softcap, number(node, "softcap", 0.0));
    b.scale = static_cast<float>(scale);
    b.softcap = static_cast<float>(softcap);
    EK_ASSIGN(b.q, matrix_ref(node, "q", q, hidden));
    EK_ASSIGN(b.k, matrix_ref(node, "k", kv, hidden));
    EK_ASSIGN(b.v, matrix_ref(node, "v", kv, hidden));
    EK_ASSIGN(b.o, matrix_ref(node, "o", hidden, q));
    EK_ASSIGN(b.q_bias, vector(node, "q_bias", q, true));
    EK_ASSIGN(b.k_bias, vector(node, "k_bias", kv, true));
    EK_ASSIGN(b.v_bias, vector(node, "v_bias", kv, true));
    EK_ASSIGN(b.o_bias, vector(node, "o_bias", hidden, true));
    EK_ASSIGN(b.q_norm, norm(node, "q_norm", q, b.head_dim));
    EK_ASSIGN(b.k_norm, norm(node, "k_norm", kv, b.head_dim));
    if (has(node, "rope")) {
      uint64_t index;
      EK_ASSIGN(index, integer(node, "rope", kMaxSize));
      if (index >= out_.ropes.size() || out_.ropes[index].dim > b.head_dim) {
        return bad("rope", "does not fit the heads");
      }
      b.rope = static_cast<int32_t>(index);
    }
    return Nothing{};
  }

  Outcome ffn(const JsonNode& node, Block& b) {
    static const std::unordered_map<std::string, Activation> kActivations = {
        {"silu", Activation::silu}, {"gelu", Activation::gelu},   {"gelu_tanh", Activation::gelu_tanh},
        {"relu", Activation::relu}, {"relu2", Activation::relu2}, {"threshold", Activation::threshold}};
    std::string activation;
    double threshold;
    EK_ASSIGN(activation, string(node, "activation"));
    const auto found = kActivations.find(activation);
    if (found == kActivations.end()) {
      return fail(EDGEKIT_UNSUPPORTED, "activation '" + activation + "' is unknown to this runtime");
    }
    b.activation = found->second;
    EK_ASSIGN(threshold, number(node, "threshold", 0.0));
    b.threshold = static_cast<float>(threshold);
    EK_ASSIGN(b.gated, boolean(node, "gated"));
    EK_ASSIGN(b.parallel, boolean(node, "parallel"));
    EK_ASSIGN(b.size, size(node, "size"));
    EK_ASSIGN(b.gate_bias, vector(node, "gate_bias", b.size, true));
    EK_ASSIGN(b.up_bias, vector(node, "up_bias", b.size, true));
    EK_ASSIGN(b.down_bias, vector(node, "down_bias", out_.hidden_size, true));
    const JsonNode* list;
    EK_ASSIGN(list, member(node, "matrices", JsonType::array));
    if (list->count == 0 || list->count > 4096) return bad("matrices", "must name 1 to 4096");
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      auto name = json_string(json_.at(i));
      if (!name.ok()) return bad("matrices", name.error().message);
      int32_t index;
      EK_ASSIGN(index, matrix_named(name.value(), b.size, out_.hidden_size, b.gated ? 3 : 2));
      b.matrices.push_back(index);
    }
    if (b.kind == Block::ffn) return b.matrices.size() == 1 ? Outcome(Nothing{}) : bad("matrices", "one");
    EK_ASSIGN(b.router, matrix_ref(node, "router", list->count, out_.hidden_size));
    EK_ASSIGN(b.top_k, size(node, "top_k"));
    EK_ASSIGN(b.normalize, boolean(node, "normalize"));
    return b.top_k <= list->count ? Outcome(Nothing{}) : bad("top_k", "more than there are experts");
  }

  Outcome block(const JsonNode& node) {
    Block b;
    std::string kind;
    EK_ASSIGN(kind, string(node, "kind"));
    EK_ASSIGN(b.pre_norm, norm(node, "pre_norm", out_.hidden_size));
    EK_ASSIGN(b.post_norm, norm(node, "post_norm", out_.hidden_size));
    EK_ASSIGN(b.out_norm, norm(node, "out_norm", out_.hidden_size));
    if (kind == "attention") {
      EK_TRY(attention(node, b));
    } else if (kind == "ffn" || kind == "experts") {
      b.kind = kind == "ffn" ? Block::ffn : Block::experts;
      EK_TRY(ffn(node, b));
      const bool after_attention = !out_.blocks.empty() && out_.blocks.back().kind == Block::attention;
      if (b.parallel && !after_attention) return bad("parallel", "without an attention before it");
    } else {
      return fail(EDGEKIT_UNSUPPORTED, "block kind '" + kind + "' is unknown to this runtime");
    }
    out_.blocks.push_back(std::move(b));
    return Nothing{};
  }

  Outcome model(const JsonNode& root) {
    const JsonNode *model, *embedding, *head, *list;
    EK_ASSIGN(model, member(root, "model", JsonType::object));
    EK_ASSIGN(out_.vocab_size, size(*model, "vocab_size"));
    EK_ASSIGN(out_.hidden_size, size(*model, "hidden_size"));
    EK_ASSIGN(out_.max_context, size(*model, "max_context"));
    EK_ASSIGN(embedding, member(*model, "embedding", JsonType::object));
    EK_ASSIGN(head, member(*model, "head", JsonType::object));
    EK_TRY(ends(*embedding, *head));
    EK_ASSIGN(out_.final_norm, norm(*model, "final_norm", out_.hidden_size));
    EK_ASSIGN(list, member(*model, "ropes", JsonType::array));
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      Rope r;
      EK_ASSIGN(r, rope(json_.at(i)));
      out_.ropes.push_back(r);
    }
    EK_ASSIGN(list, member(*model, "blocks", JsonType::array));
    if (list->count > 8192) return bad("blocks", "too many");
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) EK_TRY(block(json_.at(i)));
    return Nothing{};
  }

  Outcome ends(const JsonNode& embedding, const JsonNode& head) {
    const uint32_t hidden = out_.hidden_size;
    double scale, softcap;
    EK_ASSIGN(out_.embedding, matrix_ref(embedding, "matrix", out_.vocab_size, 0));
    const uint32_t width = out_.matrices[static_cast<size_t>(out_.embedding)].parts[0].cols;
    EK_ASSIGN(scale, number(embedding, "scale", 1.0));
    out_.embedding_scale = static_cast<float>(scale);
    EK_ASSIGN(out_.embedding_project, matrix_ref(embedding, "project", hidden, width, true));
    if (out_.embedding_project == kNone && width != hidden) return bad("embedding", "of another width");
    EK_ASSIGN(out_.embedding_norm, norm(embedding, "norm", hidden));
    EK_ASSIGN(out_.position, matrix_ref(embedding, "position", 0, hidden, true));
    if (out_.position != kNone) {
      EK_ASSIGN(out_.position_offset, size(embedding, "position_offset", 0));
      const uint64_t need = uint64_t{out_.max_context} + out_.position_offset;
      if (out_.matrices[static_cast<size_t>(out_.position)].rows < need) {
        return bad("position", "has fewer rows than the context");
      }
    }
    EK_ASSIGN(out_.head_project, matrix_ref(head, "project", 0, hidden, true));
    const uint32_t inner =
        out_.head_project == kNone ? hidden : out_.matrices[static_cast<size_t>(out_.head_project)].rows;
    EK_ASSIGN(out_.head, matrix_ref(head, "matrix", out_.vocab_size, inner));
    EK_ASSIGN(out_.head_bias, vector(head, "bias", out_.vocab_size, true));
    EK_ASSIGN(softcap, number(head, "softcap", 0.0));
    out_.head_softcap = static_cast<float>(softcap);
    return Nothing{};
  }

  const Json& json_;
  Manifest& out_;
  std::unordered_map<std::string, int32_t> vector_index_, matrix_index_;
};

// The first line is {"checksum":"<16 hex digits>", and covers everything after its newline.
Outcome check_first_line(std::string_view text) {
  constexpr std::string_view kHead = "{\"checksum\":\"", kTail = "\",\n";
  constexpr size_t kLine = 13 + 16 + 3;
  if (text.size() < kLine || text.substr(0, 13) != kHead || text.substr(29, 3) != kTail) {
    return fail(EDGEKIT_CORRUPT, "the manifest does not begin with its checksum");
  }
  const char* digits = "0123456789abcdef";
  const uint64_t sum = lane64(reinterpret_cast<const uint8_t*>(text.data()) + kLine, text.size() - kLine);
  for (int i = 0; i < 16; ++i) {
    if (text[13 + static_cast<size_t>(i)] != digits[sum >> (60 - 4 * i) & 15]) {
      return fail(EDGEKIT_CORRUPT, "the manifest does not match its checksum; it is damaged");
    }
  }
  return Nothing{};
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view text, Budget& budget) {
  EK_TRY(check_first_line(text));
  Json json;
  EK_ASSIGN(json, Json::parse(text, budget));
  Manifest out;
  EK_TRY(Reader(json, out).run());
  return out;
}

}  // namespace edgekit
