#include "select/neuron_usage.h"

#include <algorithm>
#include <cmath>

namespace edgekit {

namespace {
Shape usage_shape(size_t blocks, uint32_t neurons) { return Shape(blocks, neurons); }
Shape kept_shape(size_t blocks, uint32_t neurons) { return Shape(blocks, uint64_t{1} + neurons); }
}  // namespace

Result<NeuronUsage> NeuronUsage::allocate(Budget& budget, size_t blocks, uint32_t neurons) {
  NeuronUsage out;
  EK_ASSIGN(out.usage_, Array<float>::allocate(budget, usage_shape(blocks, neurons), "use of neurons"));
  EK_ASSIGN(out.kept_, Array<uint32_t>::allocate(budget, kept_shape(blocks, neurons), "chosen neurons"));
  return out;
}

uint64_t NeuronUsage::charge(size_t blocks, uint32_t neurons) {
  return Array<float>::charge(usage_shape(blocks, neurons)) + Array<uint32_t>::charge(kept_shape(blocks, neurons));
}

void NeuronUsage::record(size_t block, uint32_t size, const float* values, uint32_t tokens, uint32_t stride) {
  if (usage_.empty()) return;
  float* usage = usage_.row(block);
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* h = values + size_t{t} * stride;
    float total = 0;
    for (uint32_t r = 0; r < size; ++r) total += h[r] * h[r];
    const float scale = total > 0 ? 1 / total : 0;
    for (uint32_t r = 0; r < size; ++r) usage[r] += h[r] * h[r] * scale;
  }
  decided_ = false;
}

void NeuronUsage::keep_most_used(const Manifest& manifest, float sparsity) {
  for (size_t i = 0; i < manifest.blocks.size() && !decided_; ++i) {
    if (manifest.blocks[i].kind != Block::ffn) continue;
    const uint32_t size = manifest.blocks[i].size;
    const uint32_t keep = std::max(1u, static_cast<uint32_t>(std::lround((1 - sparsity) * static_cast<float>(size))));
    const float* usage = usage_.row(i);
    uint32_t *count = kept_.row(i), *kept = count + 1;
    *count = keep;
    for (uint32_t r = 0; r < size; ++r) kept[r] = r;
    std::nth_element(kept, kept + (keep - 1), kept + size,
                     [&](uint32_t a, uint32_t c) { return usage[a] > usage[c] || (usage[a] == usage[c] && a < c); });
    std::sort(kept, kept + keep);
  }
  decided_ = true;
}

void NeuronUsage::clear() {
  std::fill_n(usage_.data(), usage_.size(), 0.0f);
  decided_ = false;
}

}  // namespace edgekit
