#include "model/engine.h"

#include <algorithm>
#include <mutex>

#include "core/clock.h"

namespace edgekit {

namespace {
uint64_t state_bytes(const Manifest& m, uint32_t context, uint32_t draft) {
  return uint64_t{m.vocab_size} * (12 + 4 * draft) + uint64_t{context} * 4 + uint64_t{mask_words(m.vocab_size)} * 4;
}
// Blocks of which a session counts the use of neurons.
size_t usage_blocks(const Manifest& m, uint32_t select) {
  return select == EDGEKIT_SELECT_PROMPT ? m.blocks.size() : 0;
}
}  // namespace

uint64_t session_bytes(const Manifest& m, uint32_t context, const Settings& s) {
  if (m.bidirectional) return NeuronUsage::charge(0, widths_of(m, s.activations).ffn);  // it keeps no tokens
  const uint64_t state = s.compute != EDGEKIT_COMPUTE_ALL ? 0 : Buffer::charge(state_bytes(m, context, s.draft));
  const uint64_t copies = s.compute != EDGEKIT_COMPUTE_ALL ? 0 : Checkpoints::charge(m, s.cache_type);
  const uint64_t recurrent = s.compute != EDGEKIT_COMPUTE_ALL ? 0 : LinearStates::charge(m, s.draft);
  return state + copies + recurrent + NeuronUsage::charge(usage_blocks(m, s.select), widths_of(m, s.activations).ffn);
}

namespace {
// Whether several tokens in one pass give what they give one by one.
Outcome check_drafts(const Manifest& m, const Plan& plan) {
  if (!m.writes()) return fail(EDGEKIT_INVALID_ARGUMENT, "this model writes no text, so it takes no drafts");
  if (plan.select != EDGEKIT_SELECT_ALL && plan.select != EDGEKIT_SELECT_ROUTER) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                "drafts are checked by passes over all neurons: open with the selection 'all', or without drafts");
  }
  for (const Rope& rope : m.ropes) {
    if (rope.switch_length != 0) {
      return fail(EDGEKIT_INVALID_ARGUMENT,
                  "this model's keys depend on the length of the text, so it takes no drafts");
    }
  }
  return Nothing{};
}

// Whether an adapter is applied whole.
Outcome check_adapter(const Adapter& adapter, const Settings& s, const Plan& plan) {
  if (s.compute != EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "an adapter needs the whole model; this was opened for parts of it only");
  }
  if (adapter.changes_neurons() && plan.select != EDGEKIT_SELECT_ALL && plan.select != EDGEKIT_SELECT_ROUTER) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                s.lora +
                    ": changes the neurons of feed-forward blocks, which selections leave out; open with the "
                    "selection 'all', or merge the adapter with convert --lora");
  }
  return Nothing{};
}
}  // namespace

Outcome plan_model(const std::string& path, const Settings& s, Budget& budget, std::unique_ptr<Bundle>& bundle,
                   std::unique_ptr<Adapter>& adapter, Plan& plan) {
  EK_ASSIGN(bundle, Bundle::open(path, budget, s.io_mode));
  const Manifest& m = bundle->manifest();
  if (!s.lora.empty()) {
    EK_ASSIGN(adapter, Adapter::open(s.lora, m, budget));
  }
  PlanRequest request;
  request.ram_bytes = s.budget_bytes;
  const bool pictures = m.output == Output::image;
  if (pictures && s.compute != EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "an encoder of pictures is opened whole, not for parts of it");
  }
  const uint32_t usual = m.bidirectional && !pictures ? m.pooling.max_length : m.max_context;
  request.context = s.context != 0 ? s.context : pictures ? usual : std::min(usual, 2048u);
  if (request.context > m.max_context) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "a context of " + std::to_string(request.context) +
                                              " tokens is more than this model's " + std::to_string(m.max_context));
  }
  request.max_batch = s.max_batch;
  request.least_batch = std::max(1 + s.draft, s.least_batch);
  if (m.bidirectional) request.max_batch = request.least_batch = request.context;  // a pass is a whole text
  request.sessions = s.sessions;
  request.texts = std::min(s.texts(), kMostTexts);
  request.cache_type = s.cache_type;
  request.kv_policy = s.kv_policy;
  if (s.compute == EDGEKIT_COMPUTE_ALL) EK_TRY(check_kv_policy(s.kv_policy, m));
  request.workspace_bytes = [&](uint32_t batch, uint64_t unit_bytes) {
    return workspace_bytes(m, s.activations, batch, s.threads, unit_bytes, adapter.get());
  };
  request.select = s.select;
  request.parts = s.compute;
  request.session_bytes = session_bytes(m, request.context, s);
  request.fixed_bytes = budget.used();
  request.opening_bytes = budget.peak();
  EK_TRY(make_plan(m, request, plan));
  if (adapter != nullptr) EK_TRY(check_adapter(*adapter, s, plan));
  return s.draft > 0 ? check_drafts(m, plan) : Nothing{};
}

Result<std::unique_ptr<Model>> Model::open(const std::string& path, const Settings& settings) {
  std::unique_ptr<Model> out(new Model(settings));
  Model& m = *out;
  auto planned = plan_model(path, settings, m.budget, m.bundle, m.adapter, m.plan);
  const bool opened = m.bundle != nullptr && (settings.lora.empty() || m.adapter != nullptr);
  if (planned.error().status == EDGEKIT_OVER_BUDGET && !opened) {
    // Not even the manifest or the adapter fits: look without a limit, to name the floor.
    Budget unlimited(0);
    std::unique_ptr<Bundle> bundle;
    std::unique_ptr<Adapter> adapter;
    EK_TRY(plan_model(path, settings, unlimited, bundle, adapter, m.plan));
  }
  EK_TRY(std::move(planned));
  EK_TRY(m.pool.start(settings.threads));
  EK_ASSIGN(m.weights, Weights::load(*m.bundle, m.budget, m.plan, settings.io, m.pool));
  uint64_t largest_unit = 0;
  for (const Matrix& x : m.bundle->manifest().matrices) largest_unit = std::max(largest_unit, x.unit_stride);
  EK_TRY(allocate_workspace(m.budget, m.bundle->manifest(), settings.activations, m.plan.max_batch, settings.texts(),
                            settings.threads, largest_unit, m.adapter.get(), m.workspace));
  m.decoder.reset(new Decoder(*m.weights, m.workspace, m.pool, *settings.kernels, settings.activations,
                              settings.sparsity, settings.lookahead, m.adapter.get()));
  const auto mib = [](uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
  m.log(EDGEKIT_LOG_INFO, path + ": " + mib(m.plan.resident_bytes) + " of " + mib(m.plan.weight_bytes) +
                              " resident, window " + mib(m.plan.window_bytes) + ", kernels " + settings.kernels->name +
                              ", " + std::to_string(m.pool.size()) + " threads");
  if (settings.io_mode != EDGEKIT_IO_BUFFERED && !m.weights->direct()) {
    m.log(EDGEKIT_LOG_WARNING, path + ": direct reads are not possible here, so reads go through the page cache");
  }
  if (m.plan.window_bytes > 0 && settings.io.engine == EDGEKIT_IO_ENGINE_AUTO && !m.weights->uring()) {
    m.log(EDGEKIT_LOG_WARNING, path + ": io_uring is not to be had here, so small reads go through threads");
  }
  return out;
}

void Model::log(int32_t level, const std::string& message) const {
  if (settings.log != nullptr) settings.log(level, message.c_str(), settings.log_user);
}

uint64_t Model::identity() const {
  const uint64_t manifest = bundle->manifest().checksum;
  return adapter == nullptr ? manifest : manifest * 0x9E3779B97F4A7C15 + adapter->checksum();
}

Plan Model::current_plan() const {
  std::lock_guard<std::mutex> hold(plan_mutex);
  return plan;
}

Outcome Model::set_budget(uint64_t budget_bytes) {
  std::lock_guard<Turns> hold(turn);
  Plan next = plan;
  EK_TRY(change_budget(bundle->manifest(), budget_bytes, next));
  auto outcome = weights->replan(next, budget_bytes);
  {
    std::lock_guard<std::mutex> reading(plan_mutex);
    plan = weights->plan();
  }
  log(outcome.ok() ? EDGEKIT_LOG_INFO : EDGEKIT_LOG_WARNING,
      "budget " + std::to_string(budget_bytes) + " bytes: " + std::to_string(plan.resident_bytes) +
          " of weights resident" + (outcome.ok() ? "" : "; " + outcome.error().message));
  return outcome;
}

Outcome Model::save_warm(const std::string& path) {
  std::lock_guard<Turns> hold(turn);
  return weights->save_warm(path);
}

Outcome Model::load_warm(const std::string& path) {
  std::lock_guard<Turns> hold(turn);
  return weights->load_warm(path);
}

Result<std::unique_ptr<Session>> Session::create(Model& model) {
  std::unique_ptr<Session> out(new Session(model));
  const Manifest& m = model.bundle->manifest();
  out->vocab_ = m.vocab_size;
  out->draft_most_ = model.settings.draft;
  if (model.settings.compute == EDGEKIT_COMPUTE_ALL && !m.bidirectional) {
    EK_ASSIGN(out->cache_, KvCache::allocate(model.budget, m, model.plan.context, model.plan.max_batch,
                                             model.settings.cache_type, model.settings.kv_policy, out->draft_most_));
    EK_ASSIGN(out->state_,
              Buffer::allocate(model.budget, state_bytes(m, model.plan.context, out->draft_most_), "session state"));
    EK_ASSIGN(out->checkpoints_, Checkpoints::allocate(model.budget, m, out->cache_.type()));
  }
  EK_ASSIGN(out->selection_.usage, NeuronUsage::allocate(model.budget, usage_blocks(m, model.plan.select),
                                                         widths_of(m, model.settings.activations).ffn));
  out->selection_.ahead.resize(m.blocks.size());
  return out;
}

void Session::capture(edgekit_capture_callback callback, void* user) {
  selection_.capture = callback;
  selection_.capture_user = user;
}

void Session::capture_inputs(edgekit_inputs_callback callback, void* user) {
  selection_.capture_inputs = callback;
  selection_.capture_inputs_user = user;
}

Outcome Session::check(const int32_t* tokens, uint32_t count) const {
  if (count == 0) return fail(EDGEKIT_INVALID_ARGUMENT, "no tokens to evaluate");
  const uint32_t context = model_.plan.context;
  if (count > context - position_) {
    return fail(EDGEKIT_CONTEXT_FULL, "the context of " + std::to_string(context) + " tokens has no room for " +
                                          std::to_string(count) + " more after " + std::to_string(position_) +
                                          "; open with a larger context");
  }
  return check_vocabulary_of(tokens, count);
}

Outcome Session::check_vocabulary_of(const int32_t* tokens, uint32_t count) const {
  for (uint32_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= vocab_) {
      return fail(EDGEKIT_INVALID_ARGUMENT,
                  "token " + std::to_string(tokens[i]) + " is outside the vocabulary of " + std::to_string(vocab_));
    }
  }
  return Nothing{};
}

Outcome Session::eval(const Input& input, float* last, float* all) {
  const uint32_t count = input.count;
  if (model_.settings.compute != EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "this model was opened for parts of it only, and cannot evaluate tokens");
  }
  EK_TRY(check_writes());
  EK_TRY(check(input.tokens, count));
  std::lock_guard<Turns> turn(model_.turn);
  const Moment begin = now();
  const bool prompt = count > 1 || position_ == 0;
  EK_TRY(recover());
  selection_.prompt = prompt;
  keep_checkpoint(prompt);
  auto outcome = eval_batches(input, last, all);
  if (!outcome.ok()) {
    cancelled_.store(false);
    return outcome;
  }
  count_pass(begin, count, prompt);
  return Nothing{};
}

Outcome Session::feed_forward(uint32_t block, const float* x, uint32_t tokens, float* out) {
  const auto& blocks = model_.bundle->manifest().blocks;
  if (model_.settings.compute == EDGEKIT_COMPUTE_ALL) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "the model was not opened for its feed-forward blocks (parts)");
  }
  if (block >= blocks.size() || !blocks[block].feed_forward()) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "block " + std::to_string(block) + " is not a feed-forward block");
  }
  EK_TRY(check_batch(tokens));
  std::lock_guard<Turns> turn(model_.turn);
  const Moment begin = now();
  selection_.prompt = tokens > 1;
  EK_TRY(model_.decoder->forward_block(block, x, tokens, selection_, out));
  bool first = true;
  for (uint32_t i = 0; i < block; ++i) first = first && !blocks[i].feed_forward();
  count_pass(begin, first ? tokens : 0, tokens > 1);
  return Nothing{};
}

Outcome Session::linear(uint32_t matrix, const float* x, uint32_t columns, uint32_t tokens, float* out, uint32_t rows) {
  const Manifest& all = model_.bundle->manifest();
  const auto is = [&](int32_t index) { return index == int64_t{matrix}; };
  bool known = is(all.head) || is(all.head_project) || is(all.embedding_project) || is(all.layers.project);
  for (const Block& b : all.blocks) {
    b.for_each_projection([&](int32_t i) { known = known || is(i); });
  }
  if (model_.settings.compute != EDGEKIT_COMPUTE_LINEAR || !known) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "matrix " + std::to_string(matrix) +
                                              " is no projection, or the model was not opened for those (parts)");
  }
  const Matrix& m = all.matrices[matrix];
  if (m.rows != rows || m.parts[0].cols != columns) {
    return fail(EDGEKIT_INVALID_ARGUMENT, "matrix " + std::to_string(matrix) + " has " + std::to_string(m.rows) +
                                              " rows and " + std::to_string(m.parts[0].cols) + " columns");
  }
  EK_TRY(check_batch(tokens));
  std::lock_guard<Turns> turn(model_.turn);
  const Moment begin = now();
  EK_TRY(model_.decoder->forward_matrix(static_cast<int32_t>(matrix), x, tokens, out));
  count_pass(begin, 0, tokens > 1);
  return Nothing{};
}

Outcome Session::check_batch(uint32_t tokens) const {
  if (tokens > 0 && tokens <= model_.plan.max_batch) return Nothing{};
  return fail(EDGEKIT_INVALID_ARGUMENT,
              "a call has between 1 and " + std::to_string(model_.plan.max_batch) + " tokens (the plan's max_batch)");
}

Session::Moment Session::now() const {
  const Weights& w = *model_.weights;
  return {seconds(), w.wait_seconds(), w.bytes_read(), w.window_stats()};
}

void Session::count_pass(const Moment& from, uint32_t tokens, bool prompt) { count_until(from, now(), tokens, prompt); }

void Session::count_until(const Moment& from, const Moment& to, uint32_t tokens, bool prompt) {
  (prompt ? stats_.prompt_tokens : stats_.generated_tokens) += tokens;
  (prompt ? stats_.prompt_seconds : stats_.generation_seconds) += to.begin - from.begin;
  (prompt ? stats_.prompt_bytes_read : stats_.generation_bytes_read) += to.read - from.read;
  stats_.io_wait_seconds += to.waited - from.waited;
  if (prompt) return;
  stats_.window_hits += to.window.hits - from.window.hits;
  stats_.window_misses += to.window.misses - from.window.misses;
  stats_.window_unused += to.window.vain - from.window.vain;
  stats_.read_seconds += to.window.read_seconds - from.window.read_seconds;
  stats_.manage_seconds += to.window.manage_seconds - from.window.manage_seconds;
}

Outcome Session::eval_batches(const Input& input, float* last, float* all) {
  const int32_t* tokens = input.tokens;
  const uint32_t count = input.count, step = model_.plan.max_batch, begin = position_;
  forget_next();
  has_logits_ = false;
  row_ = 0;
  for (uint32_t done = 0; done < count;) {
    const uint32_t n = std::min(step, count - done);
    const bool final_batch = done + n == count;
    if (done > 0) keep_checkpoint(false);
    const float* rows =
        input.rows != nullptr ? input.rows + size_t{done} * model_.bundle->manifest().hidden_size : nullptr;
    const Input batch{tokens + done, n, rows, input.both_ways};
    if (rows != nullptr) note_given(begin + done, begin + done + n);
    auto outcome = model_.decoder->forward(batch, begin + done, begin + count, cache_, selection_,
                                           final_batch ? logits() : nullptr,
                                           all != nullptr ? all + size_t{done} * vocab_ : nullptr, cancelled_);
    for (uint32_t i = 0; outcome.ok() && all != nullptr && i < n; ++i) {
      outcome = check_finite(all + size_t{done + i} * vocab_, begin + done + i);
    }
    if (outcome.ok() && final_batch) outcome = check_finite(logits(), begin + count - 1);
    if (!outcome.ok()) {
      // Rings of sliding windows no longer hold what the tokens before the call look at: keep whole batches.
      if (begin != 0 && begin < cache_.earliest()) {
        std::copy(tokens, tokens + done, history() + begin);
        position_ = begin + done;
      }
      forget_given(position_);
      checkpoints_.forget_behind(position_);
      return outcome;
    }
    done += n;
  }
  std::copy(tokens, tokens + count, history() + begin);
  position_ = begin + count;
  has_logits_ = true;
  if (last != nullptr) std::copy(logits(), logits() + vocab_, last);
  return Nothing{};
}

Outcome Session::check_finite(const float* row, uint32_t position) const {
  if (all_finite(row, vocab_)) return Nothing{};
  return fail(EDGEKIT_NOT_FINITE, "the model's logits are not finite at position " + std::to_string(position) +
                                      (model_.settings.cache_type == CacheType::f32
                                           ? ": its weights or activations overflow; convert a sound checkpoint"
                                           : ": its weights or activations overflow; try f32 keys and values "
                                             "(--cache-type f32)"));
}

void Session::stats(edgekit_stats& out) const {
  std::lock_guard<Turns> turn(model_.turn);  // another session's pass counts in the same places
  out = stats_;
  out.io_direct = model_.weights->direct();
  out.memory_bytes = model_.budget.used();
  out.peak_memory_bytes = model_.budget.peak();
  out.bytes_read = model_.weights->bytes_read();
  out.neurons = selection_.neurons;
  out.selected = selection_.selected;
  out.select_seconds = selection_.select_seconds;
  out.ffn_seconds = selection_.ffn_seconds;
  out.read_operations = model_.weights->read_operations();
  out.io_uring = model_.weights->uring();
}

}  // namespace edgekit
