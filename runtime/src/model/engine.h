// A loaded model and its sessions: what the C ABI hands out as opaque handles.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "core/turns.h"
#include "model/decoder.h"
#include "sampling/sampler.h"

namespace edgekit {

constexpr uint32_t kMostDraft = 64;

// The options with every default filled in.
struct Settings {
  uint32_t threads = 0, context = 0, max_batch = 0, sessions = 1, io_mode = 0, select = 0;
  IoSettings io;
  float sparsity = 0.5f;
  bool lookahead = true;
  uint32_t parts = 0;  // EDGEKIT_PARTS_*
  uint32_t draft = 0;  // most guesses checked in one pass, at most kMostDraft
  uint64_t ram_bytes = 0;
  bool wide_kv = false;
  const KernelSet* kernels = nullptr;
  edgekit_log_callback log = nullptr;
  void* log_user = nullptr;
};
Result<Settings> settings_from(const edgekit_options* options);

// Bytes of one session besides its KV cache: logits, candidates, token history, use of neurons.
uint64_t session_bytes(const Manifest& manifest, uint32_t context, const Settings& settings);

struct Model {
  explicit Model(const Settings& s) : settings(s), budget(s.ram_bytes) {}
  static Result<std::unique_ptr<Model>> open(const std::string& path, const Settings& settings);
  Outcome set_budget(uint64_t ram_bytes);
  void log(int32_t level, const std::string& message) const;

  Settings settings;
  Budget budget;  // declared before everything that is charged to it
  std::unique_ptr<Bundle> bundle;
  Plan plan;
  ThreadPool pool;
  std::unique_ptr<Weights> weights;
  Workspace workspace;
  std::unique_ptr<Decoder> decoder;
  Turns turn;  // one forward pass at a time
};

// Opens the bundle's manifest in `budget` and plans; `plan` is filled even when over budget.
Outcome plan_model(const std::string& path, const Settings& settings, Budget& budget, std::unique_ptr<Bundle>& bundle,
                   Plan& plan);

class Session {
 public:
  static Result<std::unique_ptr<Session>> create(Model& model);

  Outcome eval(const int32_t* tokens, uint32_t count, float* last, float* all);
  // Only of models opened for parts.
  Outcome feed_forward(uint32_t block, const float* x, uint32_t tokens, float* out);
  Outcome linear(uint32_t matrix, const float* x, uint32_t columns, uint32_t tokens, float* out, uint32_t rows);
  Result<int32_t> sample(const edgekit_sampling& how);
  Outcome generate(const int32_t* prompt, uint32_t prompt_count, uint32_t max_tokens, const int32_t* stop,
                   uint32_t stop_count, const edgekit_sampling& how, edgekit_token_callback callback, void* user);
  // Speculation (speculate.cpp).
  Outcome set_draft(Session* draft);
  Result<uint32_t> guess(int32_t token, int32_t* out, uint32_t room);
  Outcome verify(const int32_t* tokens, uint32_t count, const edgekit_sampling& how, uint32_t& kept, int32_t& next);
  void reset();
  Outcome save(const std::string& path);
  Outcome restore(const std::string& path);
  Outcome rewind(uint32_t position);
  uint32_t tokens(int32_t* out, uint32_t room) const;
  void cancel() { cancelled_.store(true); }
  uint32_t position() const { return position_; }
  void capture(edgekit_capture_callback callback, void* user);
  void stats(edgekit_stats& out) const;

 private:
  explicit Session(Model& model) : model_(model) {}
  Outcome check_batch(uint32_t tokens) const;
  Outcome check(const int32_t* tokens, uint32_t count) const;
  struct Moment {
    double begin, waited;
    uint64_t read;
    WindowStats window;
  };
  Moment now() const;
  // Counts `tokens` and what was spent since `from`.
  void note(const Moment& from, uint32_t tokens, bool prompt);
  Outcome eval_batches(const int32_t* tokens, uint32_t count, float* last, float* all);
  float* logits() { return state_.f32(); }
  Candidate* candidates() { return reinterpret_cast<Candidate*>(state_.f32() + size_t{1 + draft_most_} * vocab_); }
  Outcome check_whole() const;
  Outcome check_draft() const;
  Result<uint32_t> propose(const int32_t* text, uint32_t count, int32_t* out, uint32_t room);
  int32_t* history() { return reinterpret_cast<int32_t*>(state_.f32() + size_t{3 + draft_most_} * vocab_); }
  const int32_t* history() const { return const_cast<Session*>(this)->history(); }

  Model& model_;
  KvCache cache_;
  SelectionState selection_;
  Buffer state_;  // logits [1 + draft_most][vocab], candidates [vocab], history [context]
  uint32_t vocab_ = 0, position_ = 0;
  Session* draft_ = nullptr;                    // guesses, if it is not the text that does
  uint32_t draft_most_ = 0, draft_length_ = 4;  // guesses: that fit, and that are worth trying now
  bool has_logits_ = false, seeded_ = false;
  Random random_;
  std::atomic<bool> cancelled_{false};
  edgekit_stats stats_{};
};

}  // namespace edgekit
