#include "cache/kv_policy.h"

#include <string>

namespace edgekit {

namespace {
// As in the paper (arXiv 2309.17453): four are enough, and more gain nothing.
constexpr uint32_t kSinks = 4;
constexpr uint32_t kWindow = 512;
constexpr uint32_t kMostTokens = 1 << 30;
}  // namespace

// Layers that have a sliding window of their own were trained with it and keep little anyway.
KvKept KvPolicy::kept(const Block& b) const {
  if (b.kind != Block::attention || b.window != 0 || kind == EDGEKIT_KV_FULL) return {0, b.window};
  return {sinks, window};
}

Result<KvPolicy> kv_policy_from(const edgekit_options& o) {
  KvPolicy out;
  out.kind = o.kv_policy;
  if (out.kind > EDGEKIT_KV_SINKS) return fail(EDGEKIT_INVALID_ARGUMENT, "kv_policy is out of range");
  if (out.kind == EDGEKIT_KV_FULL) {
    if (o.kv_window != 0 || o.kv_sinks != 0) {
      return fail(EDGEKIT_INVALID_ARGUMENT,
                  "kv_window and kv_sinks are of the KV policy 'sinks'; the policy is 'full'");
    }
    return out;
  }
  out.window = o.kv_window != 0 ? o.kv_window : kWindow;
  out.sinks = o.kv_sinks == EDGEKIT_KV_NO_SINKS ? 0 : o.kv_sinks != 0 ? o.kv_sinks : kSinks;
  if (out.window > kMostTokens || out.sinks > kMostTokens) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "kv_window or kv_sinks is out of range");
  }
  return out;
}

Outcome check_kv_policy(const KvPolicy& policy, const Manifest& m) {
  if (policy.kind == EDGEKIT_KV_FULL) return Nothing{};
  if (m.bidirectional) return fail(EDGEKIT_INVALID_ARGUMENT, "this model keeps no KV cache, so it takes no KV policy");
  for (const Block& b : m.blocks) {
    // They go back by evaluating tokens again from a copy, and the window would not reach back to it.
    if (b.kind == Block::convolution || b.kind == Block::linear_attention) {
      return fail(EDGEKIT_INVALID_ARGUMENT,
                  "this model has layers with states (convolutions or linear attention), which take the KV policy "
                  "'full' only");
    }
  }
  return Nothing{};
}

}  // namespace edgekit
