// Which units stay in memory: the planner's answer to a budget, made before anything is loaded.
#pragma once

#include <functional>
#include <vector>

#include "cache/kv_policy.h"
#include "core/result.h"
#include "format/manifest.h"
#include "kernels/cache_rows.h"

namespace edgekit {

struct PlanRequest {
  uint64_t ram_bytes = 0;  // 0: no limit
  uint32_t context = 0;
  uint32_t max_batch = 0;    // 0: choose
  uint32_t least_batch = 1;  // that a pass must hold, however tight the budget
  uint32_t sessions = 1;
  CacheType cache_type = CacheType::f16;
  KvPolicy kv_policy;
  uint32_t select = 0;  // EDGEKIT_SELECT_*
  uint32_t parts = 0;   // EDGEKIT_COMPUTE_*
  // Work buffers of a pass of `batch` tokens, with room for a unit of `unit_bytes`.
  std::function<uint64_t(uint32_t batch, uint64_t unit_bytes)> workspace_bytes;
  uint32_t texts = 1;          // sessions that may be continued in one pass
  uint64_t session_bytes = 0;  // per session, besides its KV cache
  uint64_t fixed_bytes = 0;    // already held: manifest and checksums
  uint64_t opening_bytes = 0;  // most that was held while they were read
};

struct Plan {
  uint32_t context = 0;
  uint32_t max_batch = 0;
  uint32_t select = 0;  // in force; never auto
  uint32_t parts = 0;   // EDGEKIT_COMPUTE_*
  uint32_t slots = 0;   // of the read-ahead ring; 0: nothing is streamed
  uint64_t slot_bytes = 0;
  uint64_t window_slot_bytes = 0, window_most_bytes = 0;  // of one slot; if every unit were in the window
  uint64_t budget_bytes = 0, floor_bytes = 0, weight_bytes = 0, resident_bytes = 0, streamed_bytes = 0, kv_bytes = 0,
           activation_bytes = 0, stream_bytes = 0, window_bytes = 0;
  uint64_t largest_unit = 0;
  uint64_t fixed_bytes = 0;              // everything but weights, ring and window
  std::vector<uint32_t> resident_units;  // per matrix: its first units that stay in memory
  std::vector<uint8_t> windowed;         // per matrix: its other units come through the window
};

// Fails with EDGEKIT_OVER_BUDGET, `plan` filled but for residency, when ram_bytes is below the floor.
Outcome make_plan(const Manifest& manifest, const PlanRequest& request, Plan& plan);

// The same model under another budget: selection, work buffers and ring stay as they are, residency
// and window are decided anew. On an error the plan is what it was.
Outcome change_budget(const Manifest& manifest, uint64_t ram_bytes, Plan& plan);

// Tokens that a session may always go back, whatever the plan: rejected drafts and the ends of texts.
constexpr uint32_t kRewindRoom = 32;
// What a block keeps of a position: keys and values, the input of a convolution, or nothing.
uint32_t kv_parts(const Block& block);
// Positions that a block keeps: with a window, its sinks, what the first token of a pass looks back
// to, and the tokens of the pass, which are stored before any of them looks.
uint32_t kv_rows(const KvKept& kept, uint32_t context, uint32_t batch);
// The type of a block's rows where the cache's is `type`: a convolution's inputs are few, and have 16 bits at least.
CacheType kv_type(const Block& block, CacheType type);
// Bytes of one session's KV cache.
uint64_t kv_cache_bytes(const Manifest& manifest, uint32_t context, uint32_t batch, CacheType type,
                        const KvPolicy& policy);

}  // namespace edgekit
