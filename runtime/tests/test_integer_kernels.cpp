// Products with activations of 8 bits: every kernel set gives the bits of the portable one, for one token or many.
#include <cmath>
#include <limits>

#include "cases.h"
#include "check.h"
#include "kernels/integer.h"

using namespace edgekit;
using namespace edgekit::test;

namespace {

constexpr uint32_t kTokens = 19;
constexpr uint32_t kWidths[] = {8, 32, 60, 96, 172, 256, 300, 2336};

bool same_bits(const float* a, const float* b, size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }

// Activations of some tokens, whose sizes differ from block to block.
std::vector<float> activations(uint32_t cols, uint32_t tokens, Random& random) {
  std::vector<float> x(size_t{tokens} * padded_cols(cols));
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t i = 0; i < cols; ++i) {
      x[size_t{t} * padded_cols(cols) + i] = uniform(random) * static_cast<float>(1 + (i / kBlock + t) % 5);
    }
  }
  return x;
}

std::vector<uint8_t> quantized(const IntegerKernels& kernels, const std::vector<float>& x, uint32_t padded) {
  const size_t stride = quantized_bytes(padded), tokens = x.size() / padded;
  std::vector<uint8_t> out(stride * tokens, 0xee);
  for (size_t t = 0; t < tokens; ++t) kernels.quantize(x.data() + t * padded, padded, out.data() + t * stride);
  return out;
}

// The same as the set's `dots` take them, or its `dot` if there is one at a time.
std::vector<uint8_t> arranged(const IntegerKernels& kernels, const std::vector<float>& x, uint32_t padded,
                              bool one = false) {
  std::vector<uint8_t> out = quantized(kernels, x, padded);
  const auto arrange = one ? kernels.arrange_one : kernels.arrange;
  for (size_t at = 0; arrange != nullptr && at < out.size(); at += quantized_bytes(padded)) {
    arrange(padded, out.data() + at);
  }
  return out;
}

// Eight rows through a panel.
std::vector<float> through_panel(const IntegerKernels& kernels, const std::vector<RowCase>& cases, uint32_t n,
                                 const std::vector<uint8_t>& x, uint32_t tokens) {
  const Part& part = cases[0].part;
  const uint32_t padded = padded_cols(part.cols), blocks = padded / kBlock;
  std::vector<uint8_t> weights(size_t{blocks} * kPanelRows * kBlock, 0xee);
  std::vector<float> scales(size_t{blocks} * kPanelRows, 7.0f), biases = scales, y(size_t{tokens} * n, 7.0f);
  Panel panel{weights.data(), scales.data(), biases.data()};
  const uint8_t* rows[kPanelRows] = {};
  const uint16_t* luts[kPanelRows] = {};
  for (uint32_t r = 0; r < n; ++r) {
    rows[r] = cases[r].row.data();
    luts[r] = cases[r].lut.data();
  }
  kernels.fill_panel[static_cast<int>(part.codec)](part, rows, luts, n, panel);
  kernels.multiply_panel(panel, padded, n, x.data(), quantized_bytes(padded), tokens, y.data(), n);
  return y;
}

template <class Body>
void for_each_case(Random& random, const Body& body) {
  for (int k = 0; k < kCodecCount; ++k) {
    const Codec codec = static_cast<Codec>(k);
    if (!has_integers(codec)) continue;
    for (uint32_t cols : kWidths) {
      for_each_variant(codec, [&](uint32_t group, bool symmetric) {
        std::vector<RowCase> rows;
        for (uint32_t r = 0; r < kPanelRows; ++r) rows.push_back(make_case(codec, cols, group, symmetric, random));
        body(k, rows);
      });
    }
  }
}

}  // namespace

TEST(integer_activations_match_the_portable_ones_bit_for_bit) {
  Random random(4);
  std::vector<std::vector<float>> inputs = {std::vector<float>(96), activations(2080, 1, random)};
  inputs[0][3] = 1.0f;  // ties: 127 halves go to the even neighbour
  for (int i = 4; i < 32; ++i) inputs[0][static_cast<size_t>(i)] = (static_cast<float>(i) - 17.5f) / 127.0f;
  for (float special : {std::numeric_limits<float>::infinity(), std::nanf(""), 1e-31f, 1e-30f, 3.4e38f, 1e-45f}) {
    inputs.push_back(std::vector<float>(64, 0.25f));
    inputs.back()[5] = special;
    inputs.push_back(std::vector<float>(64));
    inputs.back()[40] = -special;
  }
  for (const KernelSet* set : other_sets()) {
    for (const auto& x : inputs) {
      const auto padded = static_cast<uint32_t>(x.size());
      const std::vector<uint8_t> want = quantized(kPortableIntegers, x, padded);
      const std::vector<uint8_t> got = quantized(*set->integers, x, padded);
      const Quantized a(want.data(), padded), b(got.data(), padded);
      const size_t blocks = quantized_blocks(padded);
      CHECK(std::memcmp(a.q, b.q, blocks * kBlock) == 0 && std::memcmp(a.sums, b.sums, blocks * 4) == 0);
      for (size_t i = 0; i < blocks; ++i) {
        CHECK(a.scales[i] == b.scales[i] || (std::isnan(a.scales[i]) && std::isnan(b.scales[i])));
      }
    }
  }
}

TEST(integer_products_match_the_portable_ones_bit_for_bit) {
  Random random(5);
  for_each_case(random, [&](int k, const std::vector<RowCase>& rows) {
    const Part& part = rows[0].part;
    const uint32_t padded = padded_cols(part.cols);
    const size_t stride = quantized_bytes(padded);
    const std::vector<float> numbers = activations(part.cols, kTokens, random);
    const std::vector<uint8_t> expected = quantized(kPortableIntegers, numbers, padded);
    std::vector<std::vector<float>> want(kPanelRows, std::vector<float>(kTokens));
    for (uint32_t r = 0; r < kPanelRows; ++r) {
      kPortableIntegers.dots[k](part, rows[r].row.data(), rows[r].lut.data(), expected.data(), stride, kTokens,
                                want[r].data(), 1);
    }
    for (const KernelSet* set : all_sets()) {
      const std::vector<uint8_t> x = arranged(*set->integers, numbers, padded);
      for (uint32_t tokens : {1u, 2u, 16u, kTokens}) {  // how many tokens come together changes no bit
        std::vector<float> y(kTokens);
        const uint32_t first = kTokens - tokens;
        set->integers->dots[k](part, rows[0].row.data(), rows[0].lut.data(), x.data() + first * stride, stride, tokens,
                               y.data(), 1);
        CHECK(same_bits(y.data(), want[0].data() + first, tokens));
      }
      const std::vector<uint8_t> alone = arranged(*set->integers, numbers, padded, true);
      for (uint32_t r = 0; r < kPanelRows; ++r) {
        float y = 7;
        set->integers->dot[k](part, rows[r].row.data(), rows[r].lut.data(), alone.data() + r * stride, &y);
        CHECK(same_bits(&y, &want[r][r], 1));
      }
      for (uint32_t n : {1u, 5u, 8u}) {
        const std::vector<float> y = through_panel(*set->integers, rows, n, expected, kTokens);
        bool same = true;
        for (uint32_t t = 0; t < kTokens; ++t) {
          for (uint32_t r = 0; r < n; ++r) same = same && same_bits(&y[t * n + r], &want[r][t], 1);
        }
        CHECK(same);
      }
    }
  });
}

TEST(integer_products_have_the_scale_of_every_byte) {
  Random random(8);
  RowCase c = make_case(Codec::scaled_palette4, 256 * kBlock, 32, false, random);
  for (uint32_t g = 0; g < 256; ++g) c.row[g] = static_cast<uint8_t>(g);
  const uint32_t padded = c.part.cols;
  for (uint32_t g = 0; g < 256; ++g) {  // a block each, so that no other scale counts
    std::vector<float> x(padded);
    for (uint32_t i = 0; i < kBlock; ++i) x[g * kBlock + i] = uniform(random);
    const std::vector<uint8_t> bytes = quantized(kPortableIntegers, x, padded);
    float want = 0;
    const int k = static_cast<int>(c.part.codec);
    kPortableIntegers.dots[k](c.part, c.row.data(), c.lut.data(), bytes.data(), 0, 1, &want, 1);
    CHECK((want == 0.0f) == (g == 0));
    for (const KernelSet* set : all_sets()) {
      const std::vector<uint8_t> own = arranged(*set->integers, x, padded);
      float y = 7;
      set->integers->dots[k](c.part, c.row.data(), c.lut.data(), own.data(), 0, 1, &y, 1);
      CHECK(same_bits(&y, &want, 1));
      const std::vector<uint8_t> alone = arranged(*set->integers, x, padded, true);
      set->integers->dot[k](c.part, c.row.data(), c.lut.data(), alone.data(), &y);
      CHECK(same_bits(&y, &want, 1));
    }
  }
}

// The weights are those that f32 products see; the only loss is that of the activations.
TEST(integer_products_are_those_of_the_rounded_activations) {
  Random random(6);
  for_each_case(random, [&](int k, const std::vector<RowCase>& rows) {
    const RowCase& c = rows[0];
    const uint32_t padded = padded_cols(c.part.cols);
    const std::vector<float> x = activations(c.part.cols, 1, random);
    const std::vector<uint8_t> bytes = quantized(kPortableIntegers, x, padded);
    const Quantized in(bytes.data(), padded);
    std::vector<float> weights(padded);
    kPortableKernels.decode[k](c.part, c.row.data(), c.lut.data(), 0, c.part.cols, weights.data());
    double want = 0, size = 0;
    for (uint32_t j = 0; j < c.part.cols; ++j) {
      const double rounded = static_cast<double>(in.scales[j / kBlock]) * in.q[j];
      CHECK(std::fabs(rounded - static_cast<double>(x[j])) <= 0.5001 * static_cast<double>(in.scales[j / kBlock]));
      want += weights[j] * rounded;
      size += std::fabs(weights[j] * rounded);
    }
    float y;
    kPortableIntegers.dots[k](c.part, c.row.data(), c.lut.data(), bytes.data(), bytes.size(), 1, &y, 1);
    CHECK(std::fabs(want - static_cast<double>(y)) <= 1e-5 * (size + 1));
  });
}

TEST(integer_products_of_numbers_that_are_not_finite_are_not_finite) {
  Random random(7);
  std::vector<float> x = activations(96, 1, random);
  x[40] = std::numeric_limits<float>::infinity();
  const RowCase c = make_case(Codec::affine4, 96, 32, true, random);
  for (const KernelSet* set : all_sets()) {
    const std::vector<uint8_t> bytes = arranged(*set->integers, x, 96);
    float y = 0;
    set->integers->dots[static_cast<int>(Codec::affine4)](c.part, c.row.data(), nullptr, bytes.data(), bytes.size(), 1,
                                                          &y, 1);
    CHECK(!std::isfinite(y));
  }
}
