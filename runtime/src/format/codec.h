// The codecs' facts: what a manifest calls them and how their records are laid out (docs/format.md, "Codecs").
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace edgekit {

constexpr uint32_t kBlock = 32;  // weights are packed in blocks of 32 along a row
constexpr int32_t kNone = -1;

// What a weight is computed from, which says what lies before the codes in a record:
//   dense          the value itself
//   affine         code * scale + bias: an f16 scale, and a bias unless symmetric, for each group of columns
//   lookup         a table's entry
//   scaled_lookup  a table's entry * scale: one byte for the scale of each group of columns
//   computed       a value computed from the bits around the weight's own, * scale: one byte for the scale of the row
enum class Form : uint8_t { dense, affine, lookup, scaled_lookup, computed };

// One per way of storing a row; the order is that of kernels.inc.
enum class Codec : uint8_t {
#define EK_CODEC(name, id, bits, form) name,
#include "kernels/kernels.inc"
#undef EK_CODEC
  count
};
constexpr int kCodecCount = static_cast<int>(Codec::count);

constexpr uint32_t kCodecBits[] = {
#define EK_CODEC(name, id, bits, form) bits,
#include "kernels/kernels.inc"
#undef EK_CODEC
};

constexpr Form kCodecForms[] = {
#define EK_CODEC(name, id, bits, form) Form::form,
#include "kernels/kernels.inc"
#undef EK_CODEC
};

constexpr const char* kCodecNames[] = {
#define EK_CODEC(name, id, bits, form) id,
#include "kernels/kernels.inc"
#undef EK_CODEC
};

constexpr uint32_t bits_of(Codec codec) { return kCodecBits[static_cast<int>(codec)]; }
constexpr Form form_of(Codec codec) { return kCodecForms[static_cast<int>(codec)]; }
constexpr bool has_table(Form form) { return form == Form::lookup || form == Form::scaled_lookup; }
constexpr bool has_groups(Form form) { return form == Form::affine || form == Form::scaled_lookup; }

// The codec of that name and that many bits, or Codec::count.
inline Codec find_codec(std::string_view name, uint64_t bits) {
  int found = 0;
  while (found < kCodecCount && (name != kCodecNames[found] || bits != kCodecBits[found])) ++found;
  return static_cast<Codec>(found);
}

// A row record of one codec inside the (possibly bundled) row of a matrix.
struct Part {
  Codec codec = Codec::f32;
  bool symmetric = false;   // affine: no stored bias, zero point in the middle
  uint32_t group_size = 0;  // affine, scaled_lookup: columns per scale, a multiple of 32 (or at least cols)
  uint32_t cols = 0;
  uint32_t offset = 0;       // of the record within the row
  uint32_t bytes = 0;        // of the record
  int32_t lut = kNone;       // lookup, scaled_lookup: vector of f16 [ceil(rows/lut_rows)][2^bits]
  uint32_t lut_rows = 0;     // rows that share a table
  uint32_t state_bits = 16;  // computed: bits of the stream that a weight depends on
};

inline uint32_t padded_cols(uint32_t cols) { return (cols + kBlock - 1) / kBlock * kBlock; }
inline uint32_t group_count(const Part& p) {
  const uint32_t size = p.group_size;  // nearly always a power of two, and divisions are slow beside a row
  return ((size & (size - 1)) == 0 ? (p.cols - 1) >> __builtin_ctz(size) : (p.cols - 1) / size) + 1;
}

// What a record's end, and the end of what precedes its codes, are multiples of.
inline uint32_t record_alignment(Form form) {
  return form == Form::computed ? 1 : form == Form::scaled_lookup ? 4 : 16;
}

// Where a record's codes begin: after its scales, if it has any, then its biases.
inline uint32_t codes_offset(const Part& p) {
  const Form form = form_of(p.codec);
  if (form == Form::computed) return 1;
  if (!has_groups(form)) return 0;
  const uint32_t per_group = form == Form::scaled_lookup ? 1 : p.symmetric ? 2 : 4, align = record_alignment(form);
  return (group_count(p) * per_group + align - 1) / align * align;
}

inline uint64_t record_bytes(const Part& p) {
  const uint64_t codes = uint64_t{padded_cols(p.cols)} * bits_of(p.codec) / 8,
                 align = record_alignment(form_of(p.codec));
  return (codes_offset(p) + codes + align - 1) / align * align;
}

}  // namespace edgekit
