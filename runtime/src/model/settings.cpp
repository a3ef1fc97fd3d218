// What the options of the C ABI stand for, with every default filled in.
#include <algorithm>

#include "core/cpus.h"
#include "model/engine.h"

namespace edgekit {

edgekit_options default_options() {
  edgekit_options o{};
  o.struct_size = sizeof(o);
  o.threads = std::min(usable_cpus(), 16u);
  o.sessions = 1;
  o.io_threads = 4;
  o.io_depth = 128;
  o.sparsity = 0.5f;
  return o;
}

Result<Settings> settings_from(const edgekit_options& o) {
  Settings s;
  const edgekit_options defaults = default_options();
  const auto or_default = [](auto given, auto otherwise) { return given != 0 ? given : otherwise; };
  s.threads = or_default(o.threads, defaults.threads);
  s.io.threads = or_default(o.io_threads, defaults.io_threads);
  s.io.depth = or_default(o.io_depth, defaults.io_depth);
  s.io.engine = o.io_engine;
  s.io.window = o.window_tokens;
  s.select = o.select;
  s.sparsity = or_default(o.sparsity, defaults.sparsity);
  s.compute = o.compute;
  s.lookahead =
      o.no_lookahead == 0 && s.compute == EDGEKIT_COMPUTE_ALL;  // it looks at the residual, which is elsewhere then
  s.context = o.context;
  s.max_batch = o.max_batch;
  s.least_batch = o.least_batch;
  s.sessions = or_default(o.sessions, defaults.sessions);
  s.io_mode = o.io_mode;
  s.budget_bytes = o.budget_bytes;
  s.cache_type = static_cast<CacheType>(o.cache_type);
  s.draft = o.draft_tokens;
  if (o.activations > EDGEKIT_ACTIVATIONS_INT8) return fail(EDGEKIT_INVALID_ARGUMENT, "activations is out of range");
  s.activations = static_cast<Activations>(o.activations);
  if (o.lora != nullptr) s.lora = o.lora;
  EK_ASSIGN(s.kv_policy, kv_policy_from(o));
  s.log = o.log;
  s.log_user = o.log_user;
  const bool known = s.select <= EDGEKIT_SELECT_ROUTER && s.io.engine <= EDGEKIT_IO_ENGINE_THREADS && s.sparsity > 0 &&
                     s.sparsity < 1 && s.io.depth <= 4096 && s.compute <= EDGEKIT_COMPUTE_LINEAR;
  if (!known)
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "select, io_engine, io_depth (<= 4096), compute or sparsity (0 to 1) is out of range");
  if (s.draft > 0 && s.select == EDGEKIT_SELECT_AUTO) s.select = EDGEKIT_SELECT_ALL;      // what checks drafts
  if (!s.lora.empty() && s.select == EDGEKIT_SELECT_AUTO) s.select = EDGEKIT_SELECT_ALL;  // which an adapter needs
  if (s.draft > kMostDraft) return fail(EDGEKIT_INVALID_ARGUMENT, "draft_tokens is out of range (0 to 64)");
  if (s.threads > 256 || s.io.threads > 64 || s.max_batch > 65536 || s.least_batch > 65536 || s.sessions > 1024 ||
      s.io_mode > EDGEKIT_IO_BUFFERED || o.cache_type > EDGEKIT_CACHE_Q4) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "threads (<= 256), io_threads (<= 64), max_batch and least_batch (<= 65536), sessions (<= 1024), "
                "io_mode or cache_type is out of range");
  }
  s.kernels = find_kernels(o.kernels);
  if (s.kernels == nullptr) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                std::string("no kernel set '") + o.kernels + "' on this CPU; it has " + kernel_set_names());
  }
  return s;
}

}  // namespace edgekit
