// A manifest under a checksum that fits: refused, or every reference and place in it is within bounds.
#include "format/manifest.h"
#include "fuzz/target.h"

namespace edgekit::fuzz {

namespace {

void require_index(int32_t index, size_t count) {
  require(index == kNone || (index >= 0 && static_cast<size_t>(index) < count), "a reference is within its list");
}

}  // namespace

void run(std::string_view input) {
  const std::string text = sign(input);
  Budget budget(64 * text.size() + 65536);
  auto parsed = parse_manifest(text, budget);
  if (!parsed.ok()) {
    require_message(parsed.error());
    require(parsed.error().status != EDGEKIT_OVER_BUDGET, "memory is in proportion to the text");
    return;
  }
  const Manifest& m = parsed.value();
  for (const Matrix& matrix : m.matrices) {
    require(matrix.file < 2 && matrix.offset + matrix.bytes() <= m.file_bytes[matrix.file], "a matrix is in its file");
    require(matrix.first_unit + matrix.units <= m.unit_count, "a matrix has checksums");
    for (int i = 0; i < matrix.part_count; ++i) {
      const Part& part = matrix.parts[i];
      require_index(part.lut, m.vectors.size());
      require(uint64_t{part.offset} + part.bytes <= matrix.row_stride, "a record is in its row");
    }
  }
  for (const Vector& v : m.vectors) {
    require(v.offset + v.count * (v.half ? 2 : 4) <= m.vectors_bytes, "a vector is in its segment");
  }
  const bool image = m.output == Output::image;
  require((image ? m.embedding_project : m.embedding) != kNone, "there is an embedding");
  require(m.head != kNone || m.output == Output::embedding, "there is a head");
  for (int32_t index : {m.embedding, m.head, m.position, m.embedding_project, m.head_project}) {
    require_index(index, m.matrices.size());
  }
  for (int32_t index : {m.embedding_bias, m.head_bias, m.head_project_bias, m.merge.norm.weight, m.merge.norm.bias}) {
    require_index(index, m.vectors.size());
  }
  require(m.merge.patches > 0 && (!image || m.bidirectional), "an encoder of pictures merges some patches");
  for (const Block& b : m.blocks) {
    for (int32_t index : b.matrices) require_index(index, m.matrices.size());
    for (int32_t index : {b.q, b.k, b.v, b.o, b.selector, b.router, b.predict_down, b.predict_up}) {
      require_index(index, m.matrices.size());
    }
    for (int32_t index : {b.q_bias, b.k_bias, b.v_bias, b.o_bias, b.gate_bias, b.up_bias, b.down_bias, b.cuts}) {
      require_index(index, m.vectors.size());
    }
    require_index(b.rope, m.ropes.size());
  }
}

}  // namespace edgekit::fuzz
