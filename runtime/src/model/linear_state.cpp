#include "model/linear_state.h"

#include <algorithm>
#include <cstring>

namespace edgekit {

namespace {
uint64_t input_values(const Block& b) { return uint64_t{b.window - 1} * b.channels(); }
uint64_t state_values(const Block& b) { return b.heads * LinearState::head_values(b) + input_values(b); }

// Calls each(block, its values, its step's values) for all blocks.
template <class Each>
void for_each_block(const Manifest& m, const Each& each) {
  for (const Block& b : m.blocks) {
    const bool linear = b.kind == Block::linear_attention;
    each(b, linear ? state_values(b) : 0, linear ? LinearState::step_values(b) : 0);
  }
}

struct Sizes {
  uint64_t values = 0, step_values = 0, widest = 0;
};
Sizes sizes_of(const Manifest& m) {
  Sizes s;
  for_each_block(m, [&](const Block& b, uint64_t values, uint64_t step_values) {
    s.values += values;
    s.step_values += step_values;
    if (values != 0) s.widest = std::max<uint64_t>(s.widest, b.head_dim);
  });
  return s;
}
}  // namespace

void write_state(const KernelSet& kernels, const Block& b, const float* k, const float* v, float amount, float stays,
                 float* state, float* change) {
  const uint32_t width = b.head_dim;
  std::fill_n(change, width, 0.0f);
  for (uint32_t i = 0; i < b.key_dim; ++i) kernels.axpy_f32(k[i], state + uint64_t{i} * width, change, width);
  for (uint32_t j = 0; j < width; ++j) change[j] = amount * (v[j] - stays * change[j]);
  for (uint32_t i = 0; i < b.key_dim; ++i) {
    float* row = state + uint64_t{i} * width;
    for (uint32_t j = 0; j < width; ++j) row[j] = stays * row[j] + k[i] * change[j];
  }
}

void write_step(const KernelSet& kernels, const Block& b, const LinearState& from, uint32_t i, uint32_t head,
                float* state, float* change) {
  const float* k = from.step_head(b, i, head);
  const float* v = k + b.key_dim;
  write_state(kernels, b, k, v, v[b.head_dim], v[b.head_dim + 1], state, change);
}

void push_inputs(const Block& b, const float* rows, uint64_t stride, uint32_t count, float* inputs) {
  const uint64_t channels = b.channels();
  const uint32_t kept = b.window - 1, fresh = std::min(count, kept);
  std::memmove(inputs, inputs + fresh * channels, (kept - fresh) * channels * sizeof(float));
  for (uint32_t i = 0; i < fresh; ++i) {
    std::copy_n(rows + (count - fresh + i) * stride, channels, inputs + (kept - fresh + i) * channels);
  }
}

uint64_t LinearStates::state_bytes(const Manifest& m) { return sizes_of(m).values * sizeof(float); }

uint64_t LinearStates::charge(const Manifest& m, uint32_t steps) {
  const Sizes s = sizes_of(m);
  return Array<float>::charge(Shape(s.values)) + Array<float>::charge(Shape(steps, s.step_values)) +
         Array<float>::charge(Shape(s.widest));
}

Result<LinearStates> LinearStates::allocate(Budget& budget, const Manifest& m, uint32_t steps) {
  LinearStates out;
  const Sizes s = sizes_of(m);
  out.manifest_ = &m;
  out.most_steps_ = steps;
  EK_ASSIGN(out.values_, Array<float>::allocate(budget, Shape(s.values), "states of linear attention"));
  EK_ASSIGN(out.stepped_, Array<float>::allocate(budget, Shape(steps, s.step_values), "states of linear attention"));
  EK_ASSIGN(out.change_, Array<float>::allocate(budget, Shape(s.widest), "states of linear attention"));
  uint64_t first = 0, first_step = 0;
  for_each_block(m, [&](const Block&, uint64_t values, uint64_t step_values) {
    out.first_.push_back(first);
    out.first_step_.push_back(first_step);
    first += values;
    first_step += steps * step_values;
  });
  return out;
}

LinearState LinearStates::of(size_t block) {
  const Block& b = manifest_->blocks[block];
  float* heads = values_.data() + first_[block];
  return {heads, heads + b.heads * LinearState::head_values(b), stepped_.data() + first_step_[block]};
}

void LinearStates::begin_pass(uint32_t position, uint32_t certain, uint32_t drafted) {
  if (!any()) return;
  if (position == 0) clear();
  pending_ = position - position_;
  next_position_ = position + certain;
  next_steps_ = drafted;
  position_ = kNowhere;
  steps_ = 0;
}

void LinearStates::end_pass() {
  position_ = next_position_;
  steps_ = next_steps_;
  pending_ = 0;
}

void LinearStates::settle(uint32_t position, const KernelSet& kernels) {
  if (!any() || position == position_ || !reach(position)) return;
  const uint32_t count = position - position_;
  for (size_t block = 0; block < manifest_->blocks.size(); ++block) {
    const Block& b = manifest_->blocks[block];
    if (b.kind != Block::linear_attention) continue;
    const LinearState state = of(block);
    push_inputs(b, state.steps, LinearState::step_values(b), count, state.inputs);
    for (uint32_t head = 0; head < b.heads; ++head) {
      float* values = state.heads + head * LinearState::head_values(b);
      for (uint32_t i = 0; i < count; ++i) write_step(kernels, b, state, i, head, values, change_.data());
    }
  }
  restored(position);
}

void LinearStates::restored(uint32_t position) {
  position_ = position;
  steps_ = pending_ = 0;
}

void LinearStates::clear() {
  restored(0);
  std::fill_n(values_.data(), values_.size(), 0.0f);
}

void LinearStates::copy_from(const LinearStates& other) {
  std::copy_n(other.values_.data(), values_.size(), values_.data());
  std::copy_n(other.stepped_.data(), stepped_.size(), stepped_.data());
  position_ = other.position_;
  steps_ = other.steps_;
  pending_ = 0;
}

}  // namespace edgekit
