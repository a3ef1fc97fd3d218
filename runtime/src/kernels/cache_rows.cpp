#include "kernels/cache_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"

namespace edgekit {

namespace {

constexpr uint16_t kNanHalf = 0x7E00;

float largest(const float* values, uint32_t n) {
  float out = 0;
  for (uint32_t i = 0; i < n; ++i) {
    if (std::isnan(values[i])) return values[i];
    out = std::max(out, std::abs(values[i]));
  }
  return out;
}

// The code of a value in [-most, most], where `least` may be lower; scale is not 0.
int32_t code_of(float value, float scale, float least, float most) {
  return static_cast<int32_t>(std::nearbyint(std::clamp(value / scale, least, most)));
}

void put_q8(const float* values, uint32_t n, uint8_t* group) {
  const float most = largest(values, n);
  const uint16_t half = std::isnan(most) ? kNanHalf : float_to_f16_saturated(most / 127.0f);
  std::memcpy(group, &half, 2);
  const float scale = f16_to_float(half);
  for (uint32_t i = 0; i < kCacheGroup; ++i) {
    const bool coded = i < n && scale > 0;
    group[2 + i] = static_cast<uint8_t>(128 + (coded ? code_of(values[i], scale, -127, 127) : 0));
  }
}

double squared_error(const float* values, uint32_t n, float scale) {
  double out = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const double off = values[i] - scale * static_cast<float>(code_of(values[i], scale, -8, 7));
    out += off * off;
  }
  return out;
}

// The scale is the best of a few: the largest value may be cut, or lie at the end that has one code more.
void put_q4(const float* values, uint32_t n, uint8_t* group) {
  const float most = largest(values, n);
  uint16_t half = std::isnan(most) ? kNanHalf : uint16_t{0};
  double least = -1;
  for (const float steps : {6.0f, 6.5f, 7.0f, 7.5f, 8.0f}) {
    if (!(most > 0)) break;
    const uint16_t tried = float_to_f16_saturated(most / steps);
    const float scale = f16_to_float(tried);
    if (!(scale > 0)) continue;
    const double error = squared_error(values, n, scale);
    if (least >= 0 && error >= least) continue;
    least = error;
    half = tried;
  }
  std::memcpy(group, &half, 2);
  const float scale = f16_to_float(half);
  std::memset(group + 2, 0, kCacheGroup / 2);
  for (uint32_t i = 0; i < kCacheGroup; ++i) {
    const int32_t code = 8 + (i < n && scale > 0 ? code_of(values[i], scale, -8, 7) : 0);
    group[2 + i % 16] = static_cast<uint8_t>(group[2 + i % 16] | code << (4 * (i / 16)));
  }
}

}  // namespace

void put_cache_row(CacheType type, const float* values, uint32_t head_dim, uint8_t* row) {
  if (type == CacheType::f32) {
    std::memcpy(row, values, size_t{head_dim} * 4);
    return;
  }
  if (type == CacheType::f16) {
    for (uint32_t i = 0; i < head_dim; ++i) {
      const uint16_t half = float_to_f16_saturated(values[i]);
      std::memcpy(row + size_t{i} * 2, &half, 2);
    }
    return;
  }
  for (uint32_t i = 0; i < head_dim; i += kCacheGroup) {
    const uint32_t n = std::min(head_dim - i, kCacheGroup);
    if (type == CacheType::q8) {
      put_q8(values + i, n, row + i / kCacheGroup * 34);
    } else {
      put_q4(values + i, n, row + i / kCacheGroup * 18);
    }
  }
}

void rotate_head(float* x, uint32_t head_dim) {
  const uint32_t size = head_dim & (~head_dim + 1);  // the lowest bit
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  for (uint32_t begin = 0; begin < head_dim; begin += size) {
    float* block = x + begin;
    for (uint32_t half = 1; half < size; half *= 2) {
      for (uint32_t i = 0; i < size; i += 2 * half) {
        for (uint32_t j = i; j < i + half; ++j) {
          const float a = block[j], b = block[j + half];
          block[j] = a + b;
          block[j + half] = a - b;
        }
      }
    }
    for (uint32_t i = 0; i < size; ++i) block[i] *= scale;
  }
}

}  // namespace edgekit
