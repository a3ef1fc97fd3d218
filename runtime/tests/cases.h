// Rows of every codec with random content, and the kernel sets that this CPU runs.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/half.h"
#include "kernels/kernels.h"
#include "sampling/sampler.h"

namespace edgekit::test {

struct RowCase {
  Part part;
  std::vector<uint8_t> row;
  std::vector<uint16_t> lut;
};

inline float uniform(Random& random) { return static_cast<float>(random.uniform() * 2 - 1); }

inline RowCase make_case(Codec codec, uint32_t cols, uint32_t group, bool symmetric, Random& random) {
  RowCase c;
  c.part.codec = codec;
  c.part.cols = cols;
  const uint32_t bits = bits_of(codec);
  const Form form = form_of(codec);
  // Scaled palettes have groups of any multiple of 32; the uneven one stands for those.
  if (has_groups(form)) c.part.group_size = form == Form::scaled_lookup && group == 128 ? 96 : group;
  c.part.symmetric = symmetric;
  c.row.resize(record_bytes(c.part));
  const uint32_t head = codes_offset(c.part), codes = padded_cols(cols) * bits / 8;
  const auto put = [&](size_t at, uint16_t h) { std::memcpy(c.row.data() + at, &h, 2); };
  for (uint32_t i = 0; i + 1 < head && form == Form::affine; i += 2) put(i, float_to_f16(uniform(random)));
  if (form == Form::computed) c.part.state_bits = group == 32 ? 12 : group == 64 ? 13 : 16;
  for (uint32_t i = 0; i < head && (form == Form::scaled_lookup || form == Form::computed); ++i) {
    c.row[i] = static_cast<uint8_t>(random.uniform() * 180);  // scales of at most about 1, and zeros
  }
  for (uint32_t i = head; i < head + codes; ++i) c.row[i] = static_cast<uint8_t>(random.uniform() * 256);
  for (uint32_t i = 0; i < padded_cols(cols); ++i) {
    const float value = i < cols ? uniform(random) : 0.0f;  // records are zero past their columns
    if (codec == Codec::f32) std::memcpy(c.row.data() + 4 * i, &value, 4);
    if (codec == Codec::f16) put(2 * i, float_to_f16(value));
    if (codec == Codec::bf16) put(2 * i, static_cast<uint16_t>(float_to_bits(value) >> 16));
  }
  for (uint32_t i = 0; has_table(form) && i < 1u << bits; ++i) {
    const float entry = uniform(random);
    c.lut.push_back(float_to_f16(form == Form::scaled_lookup ? std::round(entry * 127) / 128 : entry));
  }
  return c;
}

// Every way in which rows of a codec may differ: body(group, symmetric). What a codec does not have is not varied.
template <class Body>
void for_each_variant(Codec codec, const Body& body) {
  const Form form = form_of(codec);
  for (uint32_t group : {32u, 64u, 128u, 256u}) {
    if (group != 32 && !has_groups(form) && form != Form::computed) continue;
    for (bool symmetric : {true, false}) {
      if (symmetric && form != Form::affine) continue;
      body(group, symmetric);
    }
  }
}

inline std::vector<const KernelSet*> all_sets() {
  std::vector<const KernelSet*> out;
  const std::string names = kernel_set_names();
  for (size_t at = 0; at < names.size();) {
    const size_t end = std::min(names.find(',', at), names.size());
    out.push_back(find_kernels(names.substr(at, end - at).c_str()));
    at = end + 1;
  }
  return out;
}

// All but the portable one.
inline std::vector<const KernelSet*> other_sets() {
  std::vector<const KernelSet*> out = all_sets();
  out.pop_back();
  return out;
}

}  // namespace edgekit::test
