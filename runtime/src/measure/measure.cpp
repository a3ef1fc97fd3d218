#include "measure/measure.h"

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/threads.h"
#include "format/manifest.h"
#include "io/async_reader.h"
#include "kernels/kernels.h"

namespace edgekit {

namespace {

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// A matrix of one part whose records hold any bytes: only the time counts.
Result<Part> part_for(const edgekit_kernel_test& test) {
  Part part;
  part.codec = find_codec(test.codec, test.bits);
  if (part.codec == Codec::count) {
    return fail(EDGEKIT_INVALID_ARGUMENT, std::string("no codec '") + test.codec + "' of that many bits");
  }
  part.cols = test.cols;
  part.group_size = 64;
  part.lut_rows = 1u << 30;
  part.bytes = static_cast<uint32_t>(record_bytes(part));
  return part;
}

}  // namespace

Outcome measure_reads(const std::string& path, edgekit_read_test& test) {
  const bool sane = test.chunk_bytes >= kUnitAlignment && test.chunk_bytes % kUnitAlignment == 0 &&
                    test.chunk_bytes <= (64u << 20) && test.depth >= 1 && test.depth <= 4096 && test.threads >= 1 &&
                    test.threads <= 64;
  if (!sane)
    return fail(EDGEKIT_INVALID_ARGUMENT, "chunk_bytes (a multiple of 4096), depth or threads is out of range");
  File file;
  EK_TRY(file.open(path, test.io_mode));
  const uint64_t chunks = file.size() / test.chunk_bytes;
  if (chunks == 0) return fail(EDGEKIT_INVALID_ARGUMENT, path + " is smaller than one piece to read");
  Budget unlimited(0);
  // At least a large page, as the window has them: reads into small ones are slower.
  Buffer buffer;
  EK_ASSIGN(buffer,
            Buffer::allocate(unlimited, std::max<uint64_t>(2 << 20, test.depth * test.chunk_bytes), "read buffer"));
  AsyncReader reader;  // declared after the memory it writes to
  EK_TRY(reader.start(test.io_engine, test.depth, test.threads));
  uint64_t state = 0x9E3779B97F4A7C15 ^ (test.seed << 1 | 1), at = 0;
  std::vector<uint32_t> arrived, failed;
  const double begin = seconds();
  const auto add = [&](uint32_t slot) {
    const uint64_t chunk = test.sequential != 0 ? at++ % chunks : next_random(state) % chunks;
    reader.add(file, chunk * test.chunk_bytes, test.chunk_bytes, buffer.data() + slot * test.chunk_bytes, slot);
    reader.flush();
  };
  for (uint32_t slot = 0; slot < test.depth; ++slot) add(slot);
  uint64_t done = 0;
  while (!reader.idle()) {
    arrived.clear();
    EK_TRY(reader.reap(true, arrived, failed));
    done += arrived.size();
    const bool more = seconds() - begin < test.seconds && (test.once == 0 || at < chunks);
    for (size_t i = 0; more && i < arrived.size(); ++i) add(arrived[i]);
  }
  test.elapsed = seconds() - begin;
  test.reads = done;
  test.bytes = done * test.chunk_bytes;
  test.direct = file.direct();
  test.uring = reader.uring();
  return Nothing{};
}

Outcome measure_kernel(edgekit_kernel_test& test) {
  const KernelSet* kernels = find_kernels(nullptr);
  if (test.cols < kBlock || test.cols > (1u << 20) || test.threads < 1 || test.threads > 256 || test.codec == nullptr ||
      test.activations > EDGEKIT_ACTIVATIONS_INT8) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "codec, cols, threads or activations is out of range");
  }
  Part part;
  EK_ASSIGN(part, part_for(test));
  constexpr uint64_t kBytes = 96 << 20;  // past any cache
  const uint32_t rows = static_cast<uint32_t>(kBytes / part.bytes);
  Budget unlimited(0);
  Buffer weights, x, lut, quantized;
  EK_ASSIGN(weights, Buffer::allocate(unlimited, uint64_t{rows} * part.bytes, "weights"));
  EK_ASSIGN(x, Buffer::allocate(unlimited, uint64_t{padded_cols(part.cols)} * 4, "input"));
  EK_ASSIGN(lut, Buffer::allocate(unlimited, 512, "table"));
  EK_ASSIGN(quantized, Buffer::allocate(unlimited, quantized_bytes(padded_cols(part.cols)), "activations"));
  const bool integers = uses_integers(static_cast<Activations>(test.activations), part.codec);
  ThreadPool pool;
  EK_TRY(pool.start(test.threads));
  const auto integer_dots = kernels->integers->dots[static_cast<int>(part.codec)];
  const DotsFn dots = kernels->dots[static_cast<int>(part.codec)];
  const AddRowsFn add_rows = kernels->add_rows[static_cast<int>(part.codec)];
  const size_t width = padded_cols(part.cols);
  std::vector<float> out(test.down != 0 ? width * pool.size() : rows);
  uint64_t passes = 0;
  const double begin = seconds();
  do {
    pool.parallel_for(rows, std::max(16u, rows / (4 * pool.size())), [&](uint32_t first, uint32_t last, uint32_t w) {
      constexpr uint32_t kTogether = 4;
      const auto row_at = [&](uint32_t r) { return weights.data() + uint64_t{r} * part.bytes; };
      for (uint32_t r = first; test.down != 0 && r < last; r += kTogether) {
        const float h[kTogether] = {1, 1, 1, 1};
        const uint16_t* luts[kTogether] = {lut.u16(), lut.u16(), lut.u16(), lut.u16()};
        const uint8_t* at[kTogether];
        for (uint32_t i = 0; i < kTogether; ++i) at[i] = row_at(std::min(r + i, last - 1));
        add_rows(part, at, luts, std::min(kTogether, last - r), h, 0, 1, 0, part.cols, out.data() + w * width, 0);
      }
      for (uint32_t r = first; test.down == 0 && r < last; ++r) {
        const uint8_t* row = row_at(r);
        if (integers) {
          integer_dots(part, row, lut.u16(), quantized.data(), 0, 1, &out[r], 1);
        } else {
          dots(part, row, lut.u16(), x.f32(), 0, 1, &out[r], 1);
        }
      }
    });
    ++passes;
    test.elapsed = seconds() - begin;
  } while (test.elapsed < test.seconds);
  test.bytes = passes * rows * part.bytes;
  return Nothing{};
}

}  // namespace edgekit
