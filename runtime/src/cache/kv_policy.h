// What a KV cache keeps of a text. A policy says it block by block; the cache, its files and attention follow.
#pragma once

#include "core/result.h"
#include "format/manifest.h"

namespace edgekit {

// What a block keeps: its first positions, and those of a window that ends with the newest.
struct KvKept {
  uint32_t sinks = 0;
  uint32_t window = 0;  // a position sees itself and window - 1 before it; 0: every position is kept
};

struct KvPolicy {
  uint32_t kind = EDGEKIT_KV_FULL;
  uint32_t sinks = 0, window = 0;

  KvKept kept(const Block& block) const;
  bool operator==(const KvPolicy& other) const {
    return kind == other.kind && sinks == other.sinks && window == other.window;
  }
};

// From the options, with every default filled in; what a policy has no use for must be zero.
Result<KvPolicy> kv_policy_from(const edgekit_options& options);
// Refuses a model for which the policy cannot be.
Outcome check_kv_policy(const KvPolicy& policy, const Manifest& manifest);

}  // namespace edgekit
