#include "format/tables.h"

#include <cmath>
#include <vector>

#include "core/half.h"

namespace edgekit {

namespace {
bool is_entry(uint16_t half) {
  const float k = f16_to_float(half) * 128.0f;
  return std::fabs(k) <= 127.0f && std::rint(k) == k;  // false for NaN, too
}
}  // namespace

Outcome check_tables(const Manifest& manifest, const uint8_t* vectors) {
  std::vector<bool> checked(manifest.vectors.size());
  for (const Matrix& m : manifest.matrices) {
    for (int i = 0; i < m.part_count; ++i) {
      const Part& p = m.parts[i];
      if (form_of(p.codec) != Form::scaled_lookup || checked[static_cast<size_t>(p.lut)]) continue;
      checked[static_cast<size_t>(p.lut)] = true;
      const Vector& lut = manifest.vectors[static_cast<size_t>(p.lut)];
      for (uint64_t at = 0; at < lut.count; ++at) {
        uint16_t half;
        std::memcpy(&half, vectors + lut.offset + 2 * at, 2);
        if (is_entry(half)) continue;
        return fail(EDGEKIT_CORRUPT,
                    "entry " + std::to_string(at) + " of the palette '" + lut.name + "' is " +
                        std::to_string(f16_to_float(half)) +
                        ", not k/128 with an integer k from -127 to 127; convert the checkpoint again");
      }
    }
  }
  return Nothing{};
}

}  // namespace edgekit
