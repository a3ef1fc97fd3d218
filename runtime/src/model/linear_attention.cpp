#include "model/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "model/ops.h"

namespace edgekit {

namespace {
constexpr float kUnitEps = 1e-6f;  // of the lengths of queries and keys

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
float softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// x [n] = scale * x / |x|
void make_unit(float* x, uint32_t n, float scale) {
  double square = 0;
  for (uint32_t i = 0; i < n; ++i) square += double{x[i]} * x[i];
  const float by = static_cast<float>(scale / std::sqrt(square + double{kUnitEps}));
  for (uint32_t i = 0; i < n; ++i) x[i] *= by;
}
}  // namespace

// The workspace's rows of a token: mixed has the convolution's inputs and q what it makes of them, both
// [queries | keys | values]; k has the gate [heads * head_dim], v beta and then decay [heads]. The output of each head
// takes the place of its value in q, and the block's goes to mixed.
Outcome LinearAttention::forward(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const Widths& width = s_.width;
  const uint32_t n = pass.count, keys = b.kv_heads * b.key_dim;
  const float* x = s_.normed.data();
  float *in = s_.mixed.data(), *gate = s_.k.data(), *rates = s_.v.data();
  EK_TRY(linear_.multiply(b.q, x, width.hidden, n, nullptr, in, width.q));
  EK_TRY(linear_.multiply(b.k, x, width.hidden, n, nullptr, in + keys, width.q));
  EK_TRY(linear_.multiply(b.v, x, width.hidden, n, nullptr, in + 2 * size_t{keys}, width.q));
  EK_TRY(linear_.multiply(b.gate, x, width.hidden, n, nullptr, gate, width.kv));
  EK_TRY(linear_.multiply(b.beta, x, width.hidden, n, nullptr, rates, width.kv));
  EK_TRY(linear_.multiply(b.decay, x, width.hidden, n, w_.vector(b.decay_bias), rates + b.heads, width.kv));
  convolve(pass, block);
  const uint32_t runs = runs_of(pass);
  pool_.parallel_for(runs * b.heads, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    for (uint32_t i = begin; i < end; ++i) {
      attend_head(b, run_of(pass, block, i / b.heads), i % b.heads, s_.state.row(worker));
    }
  });
  s_.clear_tails(n, b.heads * b.head_dim);
  return linear_.multiply(b.o, s_.mixed.data(), width.q, n, nullptr, s_.out.data(), width.hidden);
}

LinearAttention::Run LinearAttention::run_of(const Pass& pass, size_t block, uint32_t i) const {
  LinearStates& states = pass.cache_of(i).states();
  if (pass.texts != nullptr) return {i, i + 1, i + 1, states.of(block), states.pending()};
  return {0, pass.count, pass.count - pass.drafted, states.of(block), states.pending()};
}

void LinearAttention::convolve(const Pass& pass, size_t block) {
  const Block& b = w_.manifest().blocks[block];
  const uint32_t runs = runs_of(pass), heads = 2 * b.kv_heads + b.heads;  // of queries, keys and values
  for (uint32_t i = 0; i < runs; ++i) {
    const Run run = run_of(pass, block, i);
    push_inputs(b, run.state.steps, LinearState::step_values(b), run.pending, run.state.inputs);
  }
  pool_.parallel_for(pass.count * heads, 1, [&](uint32_t begin, uint32_t end, uint32_t) {
    for (uint32_t i = begin; i < end; ++i) {
      const uint32_t t = i / heads;
      convolve_head(b, run_of(pass, block, pass.texts != nullptr ? t : 0), t, i % heads);
    }
  });
  for (uint32_t i = 0; i < runs; ++i) keep_inputs(b, run_of(pass, block, i));
}

// Channel c of token t = act(sum over taps of kernel[c][tap] * its input at t - (taps - 1) + tap), and for queries and
// keys, whose heads come first, divided by the length of their head.
void LinearAttention::convolve_head(const Block& b, const Run& run, uint32_t t, uint32_t head) {
  const float* kernel = w_.vector(b.kernel);
  const uint32_t taps = b.window, channels = b.channels();
  const bool value = head >= 2 * b.kv_heads;
  const uint32_t count = value ? b.head_dim : b.key_dim;
  const uint32_t first = value ? 2 * b.kv_heads * b.key_dim + (head - 2 * b.kv_heads) * b.head_dim : head * b.key_dim;
  float* out = s_.q.row(t) + first;
  std::fill_n(out, count, 0.0f);
  for (uint32_t tap = 0; tap < taps; ++tap) {
    const uint32_t place = t - run.begin + tap;  // behind the inputs that were kept
    const float* in =
        place < taps - 1 ? run.state.inputs + size_t{place} * channels : s_.mixed.row(run.begin + place - (taps - 1));
    for (uint32_t i = 0; i < count; ++i) out[i] += kernel[size_t{first + i} * taps + tap] * in[first + i];
  }
  for (uint32_t i = 0; i < count; ++i) out[i] = activate(b.activation, 0, out[i]);
  if (!value) make_unit(out, count, head < b.kv_heads ? 1.0f / std::sqrt(static_cast<float>(b.key_dim)) : 1.0f);
}

// The inputs of the convolution that later tokens look at.
void LinearAttention::keep_inputs(const Block& b, const Run& run) {
  push_inputs(b, s_.mixed.row(run.begin), s_.width.q, run.certain - run.begin, run.state.inputs);
  for (uint32_t t = run.certain; t < run.end; ++t) {
    std::copy_n(s_.mixed.row(t), b.channels(), run.state.step(b, t - run.certain));
  }
}

// All tokens of a run in one head; scratch [key_dim * head_dim + head_dim].
void LinearAttention::attend_head(const Block& b, const Run& run, uint32_t head, float* scratch) {
  const uint64_t size = LinearState::head_values(b);
  float *state = run.state.heads + head * size, *change = scratch + size;
  for (uint32_t i = 0; i < run.pending; ++i) write_step(kernels_, b, run.state, i, head, state, change);
  for (uint32_t t = run.begin; t < run.end; ++t) {
    if (t == run.certain) {  // drafts change a copy
      std::copy_n(state, size, scratch);
      state = scratch;
    }
    attend_token(b, run, t, head, state, change);
  }
}

void LinearAttention::attend_token(const Block& b, const Run& run, uint32_t t, uint32_t head, float* state,
                                   float* change) {
  const uint32_t key_head = head / (b.heads / b.kv_heads);
  const float* q = s_.q.row(t) + key_head * b.key_dim;
  const float* k = q + size_t{b.kv_heads} * b.key_dim;
  float* v = s_.q.row(t) + 2 * size_t{b.kv_heads} * b.key_dim + head * b.head_dim;
  const float* rates = s_.v.row(t);
  const float amount = sigmoid(rates[head]);
  const float stays = std::exp(-std::exp(w_.vector(b.decay_log)[head]) * softplus(rates[b.heads + head]));
  if (t >= run.certain) {
    float* step = run.state.step_head(b, t - run.certain, head);
    std::copy_n(k, b.key_dim, step);
    std::copy_n(v, b.head_dim, step + b.key_dim);
    step[b.key_dim + b.head_dim] = amount;
    step[b.key_dim + b.head_dim + 1] = stays;
  }
  write_state(kernels_, b, k, v, amount, stays, state, change);
  std::fill_n(v, b.head_dim, 0.0f);
  for (uint32_t i = 0; i < b.key_dim; ++i) kernels_.axpy_f32(q[i], state + size_t{i} * b.head_dim, v, b.head_dim);
  finish_token(b, t, head, v);
}

// mixed = norm(read [head_dim]) * silu(gate), of a head.
void LinearAttention::finish_token(const Block& b, uint32_t t, uint32_t head, const float* read) {
  float* out = s_.mixed.row(t) + size_t{head} * b.head_dim;
  const float* gate = s_.k.row(t) + size_t{head} * b.head_dim;
  apply_norm(b.norm, w_.vector(b.norm.weight), w_.vector(b.norm.bias), read, 1, b.head_dim, b.head_dim, out);
  for (uint32_t i = 0; i < b.head_dim; ++i) out[i] *= activate(Activation::silu, 0, gate[i]);
}

}  // namespace edgekit
