#include "format/manifest.h"

#include "core/checksum.h"
#include "core/trellis.h"
#include "format/fields.h"
#include "format/json.h"
#include "format/model_reader.h"

namespace edgekit {

namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;
constexpr uint32_t kMaxRowBytes = 1u << 30;

class Reader : Fields {
 public:
  Reader(const Json& json, Names& names, Manifest& out) : Fields(json, names, out) {}

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
    return read_model(json_, names_, out_);
  }

 private:
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
      if (!names_.vectors.emplace(v.name, static_cast<int32_t>(out_.vectors.size())).second) {
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
    p.codec = find_codec(codec, bits);
    if (p.codec == Codec::count) {
      return fail(EDGEKIT_UNSUPPORTED,
                  "codec '" + codec + "' with " + std::to_string(bits) + " bits is not one that this runtime knows");
    }
    EK_ASSIGN(p.cols, size(node, "cols"));
    const Form form = form_of(p.codec);
    if (has_groups(form)) EK_TRY(groups(node, p));
    if (form == Form::computed) {
      EK_ASSIGN(p.state_bits, size(node, "state_bits"));
      if (p.state_bits < kTrellisLeastState || p.state_bits > kTrellisMostState) {
        return bad("state_bits", "not 12 to 16");
      }
    }
    if (has_table(form)) {
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

  // The columns of a scale.
  Outcome groups(const JsonNode& node, Part& p) const {
    EK_ASSIGN(p.group_size, size(node, "group_size"));
    if (form_of(p.codec) == Form::scaled_lookup) {
      if (p.group_size % kBlock == 0 || p.group_size >= p.cols) return Nothing{};
      return bad("group_size", "neither a multiple of 32 nor the width of the row or more");
    }
    EK_ASSIGN(p.symmetric, boolean(node, "symmetric"));
    const uint32_t g = p.group_size;
    return g == 32 || g == 64 || g == 128 || g == 256 ? Outcome(Nothing{})
                                                      : Outcome(bad("group_size", "not 32, 64, 128 or 256"));
  }

  Outcome matrices(const JsonNode& root) {
    const JsonNode* list;
    EK_ASSIGN(list, member(root, "matrices", JsonType::array));
    out_.matrices.reserve(list->count);
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      Matrix m;
      EK_TRY(matrix(json_.at(i), m));
      if (!names_.matrices.emplace(m.name, static_cast<int32_t>(out_.matrices.size())).second) {
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
};

// The first line is {"checksum":"<16 hex digits>", and covers everything after its newline.
Result<uint64_t> check_first_line(std::string_view text) {
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
  return uint64_t{sum};
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view text, Budget& budget) {
  uint64_t sum;
  EK_ASSIGN(sum, check_first_line(text));
  Json json;
  EK_ASSIGN(json, Json::parse(text, budget));
  Manifest out;
  out.checksum = sum;
  Names names;
  EK_TRY(Reader(json, names, out).run());
  return out;
}

}  // namespace edgekit
