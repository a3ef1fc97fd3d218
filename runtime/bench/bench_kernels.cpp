// Rows of every codec times one, four or many tokens, with every kernel set that this CPU runs: weights per nanosecond
// of CPU time (which other processes disturb less than the clock's), for rows that lie in the cache.
//
//   edgekit_bench [part of a codec's name] [columns] [group size]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "tests/cases.h"

using namespace edgekit;
using namespace edgekit::test;

namespace {

constexpr uint32_t kRows = 64, kMany = 64;

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The median of five runs of about 5 ms, in seconds a call.
template <class Body>
double measure(const Body& body) {
  std::vector<double> times;
  for (int run = 0; run < 5; ++run) {
    int calls = 0;
    const double begin = cpu_seconds();
    double elapsed;
    do {
      body();
      ++calls;
      elapsed = cpu_seconds() - begin;
    } while (elapsed < 5e-3);
    times.push_back(elapsed / calls);
  }
  std::sort(times.begin(), times.end());
  return times[2];
}

// Aligned as the runtime's buffers are: vectors across two cache lines are slower.
template <class T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U>
  explicit Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{4096})); }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t{4096}); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
using AlignedFloats = std::vector<float, Aligned<float>>;

struct Bench {
  std::vector<RowCase> rows;
  AlignedFloats x, y;
  std::vector<uint8_t, Aligned<uint8_t>> q;
  uint32_t padded;

  double float_dots(const KernelSet& set, int k, uint32_t tokens) {
    return measure([&] {
      for (uint32_t r = 0; r < kRows; ++r) {
        const RowCase& c = rows[r];
        set.dots[k](c.part, c.row.data(), c.lut.data(), x.data(), padded, tokens, &y[r], kRows);
      }
    });
  }
  double integer_dots(const KernelSet& set, int k, uint32_t tokens) {
    return measure([&] {
      for (uint32_t r = 0; r < kRows; ++r) {
        const RowCase& c = rows[r];
        if (tokens == 1) {
          set.integers->dot[k](c.part, c.row.data(), c.lut.data(), q.data(), &y[r]);
        } else {
          set.integers->dots[k](c.part, c.row.data(), c.lut.data(), q.data(), quantized_bytes(padded), tokens, &y[r],
                                kRows);
        }
      }
    });
  }
  // Sums of the rows, weighted, for each token.
  double row_sums(const KernelSet& set, int k, uint32_t tokens) {
    AlignedFloats out(tokens * padded);
    const uint8_t* at[kRows];
    const uint16_t* luts[kRows];
    for (uint32_t r = 0; r < kRows; ++r) {
      at[r] = rows[r].row.data();
      luts[r] = rows[r].lut.data();
    }
    return measure([&] {
      set.add_rows[k](rows[0].part, at, luts, kRows, x.data(), padded, tokens, 0, rows[0].part.cols, out.data(),
                      padded);
    });
  }
  double float_tiles(const KernelSet& set, int k) {
    AlignedFloats decoded(8 * padded);
    return measure([&] {
      for (uint32_t r = 0; r < kRows; r += 8) {
        for (uint32_t i = 0; i < 8; ++i) {
          const RowCase& c = rows[r + i];
          set.decode[k](c.part, c.row.data(), c.lut.data(), 0, c.part.cols, decoded.data() + i * padded);
        }
        set.gemm(decoded.data(), padded, 8, x.data(), padded, kMany, padded, &y[r], kRows);
      }
    });
  }
  double integer_tiles(const KernelSet& set, int k) {
    std::vector<uint8_t, Aligned<uint8_t>> weights(8 * padded);
    AlignedFloats scales(padded / 4), biases(padded / 4);
    return measure([&] {
      for (uint32_t r = 0; r < kRows; r += 8) {
        Panel panel{weights.data(), scales.data(), biases.data()};
        const uint8_t* at[8];
        const uint16_t* luts[8];
        for (uint32_t i = 0; i < 8; ++i) {
          at[i] = rows[r + i].row.data();
          luts[i] = rows[r + i].lut.data();
        }
        set.integers->fill_panel[k](rows[r].part, at, luts, 8, panel);
        set.integers->multiply_panel(panel, padded, 8, q.data(), quantized_bytes(padded), kMany, &y[r], kRows);
      }
    });
  }
};

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  const auto cols = static_cast<uint32_t>(argc > 2 ? std::atoi(argv[2]) : 2048);
  const auto group = static_cast<uint32_t>(argc > 3 ? std::atoi(argv[3]) : 64);
  static const char* const names[] = {
#define EK_CODEC(name, id, bits, form) #name,
#include "kernels/kernels.inc"
#undef EK_CODEC
  };
  std::printf("weights per ns, rows of %u columns\n", cols);
  std::printf("%-16s %-12s %21s %21s %21s %32s\n", "", "", "1 token: f32, int8", "4: f32, int8", "64: f32, int8",
              "weighted sums: 1, 4, 16");
  Random random(1);
  for (int k = 0; k < kCodecCount; ++k) {
    if (std::string(names[k]).find(wanted) == std::string::npos) continue;
    Bench b;
    b.padded = padded_cols(cols);
    for (uint32_t r = 0; r < kRows; ++r) b.rows.push_back(make_case(static_cast<Codec>(k), cols, group, true, random));
    b.x.resize(size_t{kMany} * b.padded);
    for (float& v : b.x) v = uniform(random);
    b.y.resize(size_t{kMany} * kRows);
    b.q.resize(kMany * quantized_bytes(b.padded));
    for (const KernelSet* set : all_sets()) {
      if (set == &kPortableKernels) continue;
      for (uint32_t t = 0; t < kMany; ++t) {
        set->integers->quantize(b.x.data() + t * b.padded, b.padded, b.q.data() + t * quantized_bytes(b.padded));
      }
      const double weights = 1e-9 * kRows * b.padded;
      const bool integers = has_integers(static_cast<Codec>(k));
      std::printf("%-16s %-12s", names[k], set->name);
      for (uint32_t tokens : {1u, 4u}) {
        std::printf(" %10.2f %10.2f", weights / b.float_dots(*set, k, tokens),
                    integers ? weights / b.integer_dots(*set, k, tokens) : 0.0);
      }
      std::printf(" %10.3f %10.3f", weights / b.float_tiles(*set, k),
                  integers ? weights / b.integer_tiles(*set, k) : 0.0);
      std::printf(" %10.2f %10.2f %10.2f\n", weights / b.row_sums(*set, k, 1), weights / b.row_sums(*set, k, 4),
                  weights / b.row_sums(*set, k, 16));
    }
  }
  return 0;
}
