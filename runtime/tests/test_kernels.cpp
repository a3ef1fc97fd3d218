// Every kernel set agrees with the portable one on every codec.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cases.h"
#include "check.h"

using namespace edgekit;
using namespace edgekit::test;

namespace {

// Sums of n products in another order differ by a few rounding errors of the largest partial sum.
constexpr float kTolerance = 2e-5f;

bool near(float a, float b, float scale) { return std::fabs(a - b) <= kTolerance * scale; }

// Weighted rows: those of a set agree with the portable ones, and their bits depend neither on how many rows or tokens
// come in one call nor on whether the rows were decoded first.
void compare_sums(const KernelSet& set, const RowCase& c, uint32_t begin, uint32_t end, float scale) {
  constexpr uint32_t kRows = 7, kTokens = 3;
  const int k = static_cast<int>(c.part.codec);
  const uint32_t padded = padded_cols(c.part.cols);
  std::vector<const uint8_t*> rows(kRows, c.row.data());
  std::vector<const uint16_t*> luts(kRows, c.lut.data());
  const float h[kTokens][8] = {
      {1.5f, -0.3f, 0.7f, 1.1f, -2.0f, 0.01f, 0.4f}, {0.2f, 0, 0, 3.0f, -0.7f, 0.6f}, {-1, 1, -0.1f, 0.1f, 5, 6, -7}};
  for (uint32_t tokens : {1u, kTokens}) {
    std::vector<float> want(kTokens * padded, 0.5f), got = want, single = want, alone = want, added = want,
                                                     decoded(kRows * padded);
    kPortableKernels.add_rows[k](c.part, rows.data(), luts.data(), kRows, h[0], 8, tokens, begin, end, want.data(),
                                 padded);
    set.add_rows[k](c.part, rows.data(), luts.data(), kRows, h[0], 8, tokens, begin, end, got.data(), padded);
    for (uint32_t i = 0; i < kRows; ++i) {
      set.add_rows[k](c.part, &rows[i], &luts[i], 1, h[0] + i, 8, tokens, begin, end, single.data(), padded);
      set.decode[k](c.part, rows[i], luts[i], begin, end, decoded.data() + i * padded);
    }
    for (uint32_t t = 0; t < tokens; ++t) {
      set.add_rows[k](c.part, rows.data(), luts.data(), kRows, h[t], 8, 1, begin, end, alone.data() + t * padded,
                      padded);
    }
    set.accumulate(decoded.data(), padded, kRows, h[0], 8, tokens, padded_cols(end - begin), added.data() + begin,
                   padded);
    for (uint32_t i = 0; i < kTokens * padded; ++i) {
      const uint32_t j = i % padded;
      CHECK(near(want[i], got[i], 10 * scale) && got[i] == single[i]);
      CHECK(got[i] == alone[i]);
      CHECK(got[i] == added[i]);
      CHECK((i < tokens * padded && j >= begin && j < end) || got[i] == 0.5f);
    }
  }
}

void compare(const KernelSet& set, const RowCase& c, Random& random) {
  const int k = static_cast<int>(c.part.codec);
  const uint32_t cols = c.part.cols, padded = padded_cols(cols);
  std::vector<float> x(padded), want(padded), got(padded, 7.0f);
  for (uint32_t i = 0; i < cols; ++i) x[i] = uniform(random);
  const KernelSet& reference = kPortableKernels;
  const Form form = form_of(c.part.codec);
  const float code =
      form == Form::affine ? static_cast<float>(1u << bits_of(c.part.codec)) : 2.f;  // biases cancel these

  std::vector<float> many(5 * padded), y1(5), y2(5);
  for (uint32_t t = 0; t < 5; ++t) std::copy(x.begin(), x.end(), many.begin() + t * padded);
  for (uint32_t tokens = 1; tokens <= 5; ++tokens) {
    many[(tokens - 1) * padded] += 1.0f;  // each differs from the others
    reference.dots[k](c.part, c.row.data(), c.lut.data(), many.data(), padded, tokens, y1.data(), 1);
    set.dots[k](c.part, c.row.data(), c.lut.data(), many.data(), padded, tokens, y2.data(), 1);
    for (uint32_t t = 0; t < tokens; ++t) CHECK(near(y1[t], y2[t], code * std::sqrt(static_cast<float>(cols)) + 1));
    // A token's values do not depend on how many it came with.
    for (const KernelSet* one : {&reference, &set}) {
      std::vector<float> row(padded), y3(5);
      one->dots[k](c.part, c.row.data(), c.lut.data(), many.data(), padded, tokens, y2.data(), 1);
      one->decode[k](c.part, c.row.data(), c.lut.data(), 0, cols, row.data());
      one->gemm(row.data(), padded, 1, many.data(), padded, tokens, padded, y3.data(), 1);
      for (uint32_t t = 0; t < tokens; ++t) {
        float alone;
        one->dots[k](c.part, c.row.data(), c.lut.data(), many.data() + t * padded, 0, 1, &alone, 1);
        CHECK(y2[t] == y3[t] && y2[t] == alone);
      }
    }
  }

  const uint32_t step = cols <= 256 ? 64 : 672;  // of wide rows three ranges: the cost is quadratic
  for (uint32_t begin = 0; begin < cols; begin += step) {
    for (uint32_t end : {std::min(begin + 32, cols), cols}) {
      reference.decode[k](c.part, c.row.data(), c.lut.data(), begin, end, want.data());
      set.decode[k](c.part, c.row.data(), c.lut.data(), begin, end, got.data());
      const uint32_t filled = end == cols ? padded - begin : end - begin;
      for (uint32_t i = 0; i < filled; ++i) CHECK(near(want[i], got[i], code));
      for (uint32_t i = 0; i < filled; ++i) CHECK(form == Form::affine || want[i] == got[i]);
      compare_sums(set, c, begin, end, 2 * code);
    }
  }
}

}  // namespace

TEST(every_set_matches_the_portable_kernels) {
  Random random(1);
  for (const KernelSet* set : other_sets()) {
    for (int k = 0; k < kCodecCount; ++k) {
      const auto codec = static_cast<Codec>(k);
      for (uint32_t cols : {8u, 32u, 60u, 96u, 172u, 256u, 2080u}) {
        for_each_variant(codec, [&](uint32_t group, bool symmetric) {
          compare(*set, make_case(codec, cols, group, symmetric, random), random);
        });
      }
    }
  }
}

TEST(matrix_products_match_the_portable_kernels) {
  Random random(2);
  for (const KernelSet* set : other_sets()) {
    for (uint32_t tokens : {1u, 2u, 3u, 4u, 7u}) {
      for (uint32_t rows : {1u, 4u, 8u}) {
        const size_t k = 96;
        std::vector<float> w(16 * k), x(tokens * k), y1(tokens * 8), y2(tokens * 8), o1(tokens * k), o2;
        for (float& v : w) v = uniform(random);
        for (float& v : x) v = uniform(random);
        for (float& v : o1) v = uniform(random);
        o2 = o1;
        kPortableKernels.gemm(w.data(), k, rows, x.data(), k, tokens, k, y1.data(), 8);
        set->gemm(w.data(), k, rows, x.data(), k, tokens, k, y2.data(), 8);
        for (size_t i = 0; i < y1.size(); ++i) CHECK(near(y1[i], y2[i], 10));
        kPortableKernels.accumulate(w.data(), k, rows, x.data(), k, tokens, k, o1.data(), k);
        set->accumulate(w.data(), k, rows, x.data(), k, tokens, k, o2.data(), k);
        for (size_t i = 0; i < o1.size(); ++i) CHECK(near(o1[i], o2[i], 10));
      }
    }
  }
}

TEST(cache_kernels_match_the_portable_ones) {
  Random random(3);
  for (const KernelSet* set : other_sets()) {
    for (uint32_t n : {1u, 8u, 10u, 16u, 32u, 64u, 80u, 100u, 128u}) {
      std::vector<float> values(n), x(n);
      for (uint32_t i = 0; i < n; ++i) {
        values[i] = uniform(random);
        x[i] = uniform(random);
      }
      CHECK(near(kPortableKernels.dot_f32(values.data(), x.data(), n), set->dot_f32(values.data(), x.data(), n), 10));
      for (uint32_t type = 0; type < kCacheTypes; ++type) {
        // Exactly as long as it is, so that a sanitizer sees a read behind it.
        std::vector<uint8_t> row(cache_row_bytes(CacheType(type), n));
        put_cache_row(CacheType(type), values.data(), n, row.data());
        std::vector<float> o1(padded_cols(n), -1.0f), o2(padded_cols(n), -2.0f);
        kPortableKernels.cache_decode[type](row.data(), n, o1.data());
        set->cache_decode[type](row.data(), n, o2.data());
        CHECK(o1 == o2);
      }
    }
  }
}
