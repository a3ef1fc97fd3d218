// Rows of the KV cache: what they keep of their values.
#include <cmath>
#include <vector>

#include "cases.h"
#include "check.h"

using namespace edgekit;
using namespace edgekit::test;

TEST(rows_of_the_cache_hold_what_their_bits_can) {
  Random random(4);
  const float most_off[kCacheTypes] = {0.0005f, 0.0f, 0.0041f, 0.084f};  // of values within 1
  for (uint32_t n : {1u, 31u, 64u, 80u}) {
    std::vector<float> values(n), out(padded_cols(n));
    for (float& v : values) v = uniform(random);
    for (uint32_t type = 0; type < kCacheTypes; ++type) {
      std::vector<uint8_t> row(cache_row_bytes(CacheType(type), n));
      put_cache_row(CacheType(type), values.data(), n, row.data());
      kPortableKernels.cache_decode[type](row.data(), n, out.data());
      for (uint32_t i = 0; i < n; ++i) CHECK(std::abs(out[i] - values[i]) <= most_off[type]);
    }
  }
}

TEST(rows_of_the_cache_survive_what_is_not_finite_or_tiny) {
  for (uint32_t type = 0; type < kCacheTypes; ++type) {
    std::vector<uint8_t> row(cache_row_bytes(CacheType(type), 3));
    const auto stored = [&](float a, float b, float c) {
      const float values[3] = {a, b, c};
      float out[kBlock] = {};
      put_cache_row(CacheType(type), values, 3, row.data());
      kPortableKernels.cache_decode[type](row.data(), 3, out);
      return std::vector<float>(out, out + 3);
    };
    CHECK(std::isnan(stored(1, NAN, 2)[1]));
    CHECK(stored(0, 0, 0) == std::vector<float>(3, 0.0f));
    for (float v : stored(1e-30f, -1e-30f, 0)) CHECK(std::abs(v) <= 1e-6f);
    if (type != uint32_t(CacheType::f32)) {
      for (float v : stored(INFINITY, -INFINITY, 1)) CHECK(std::isfinite(v));
    }
  }
}

TEST(a_rotated_head_keeps_its_products_and_turns_back) {
  Random random(5);
  for (uint32_t n : {1u, 2u, 48u, 64u, 80u}) {
    std::vector<float> a(n), b(n);
    for (uint32_t i = 0; i < n; ++i) {
      a[i] = uniform(random);
      b[i] = uniform(random);
    }
    std::vector<float> ra = a, rb = b;
    rotate_head(ra.data(), n);
    rotate_head(rb.data(), n);
    CHECK(std::abs(kPortableKernels.dot_f32(a.data(), b.data(), n) -
                   kPortableKernels.dot_f32(ra.data(), rb.data(), n)) <= 1e-4f);
    rotate_head(ra.data(), n);
    for (uint32_t i = 0; i < n; ++i) CHECK(std::abs(a[i] - ra[i]) <= 1e-6f);
  }
}
