// A loaded model and its sessions: what the C ABI hands out as opaque handles.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "core/turns.h"
#include "model/checkpoints.h"
#include "model/decoder.h"
#include "sampling/sampler.h"

namespace edgekit {

constexpr uint32_t kMostDraft = 64;

// The options with every default filled in.
struct Settings {
  uint32_t threads = 0, context = 0, max_batch = 0, least_batch = 0, sessions = 1, io_mode = 0, select = 0;
  IoSettings io;
  float sparsity = 0.5f;
  bool lookahead = true;
  uint32_t compute = 0;  // EDGEKIT_COMPUTE_*
  uint32_t draft = 0;    // most tokens drafted for one pass, at most kMostDraft
  uint64_t budget_bytes = 0;
  CacheType cache_type = CacheType::f16;
  KvPolicy kv_policy;
  const KernelSet* kernels = nullptr;
  Activations activations = Activations::automatic;
  std::string lora;  // path of a LoRA adapter; empty: none
  edgekit_log_callback log = nullptr;
  void* log_user = nullptr;

  // Sessions that may be continued together.
  uint32_t texts() const { return compute == EDGEKIT_COMPUTE_ALL ? sessions : 1; }
};
// What zeros in the options stand for.
edgekit_options default_options();
Result<Settings> settings_from(const edgekit_options& options);

// Bytes of one session besides its KV cache: logits, candidates, token history, use of neurons.
uint64_t session_bytes(const Manifest& manifest, uint32_t context, const Settings& settings);

struct Model {
  explicit Model(const Settings& s) : settings(s), budget(s.budget_bytes) {}
  static Result<std::unique_ptr<Model>> open(const std::string& path, const Settings& settings);
  Outcome set_budget(uint64_t budget_bytes);
  // What the window learned, to a file and back (cache/warm.h).
  Outcome save_warm(const std::string& path);
  Outcome load_warm(const std::string& path);
  // What ties saved sessions to this model: its manifest, and its adapter.
  uint64_t identity() const;
  Plan current_plan() const;  // from any thread; a pass reads `plan` within its turn
  void log(int32_t level, const std::string& message) const;

  Settings settings;
  Budget budget;  // declared before everything that is charged to it
  std::unique_ptr<Bundle> bundle;
  std::unique_ptr<Adapter> adapter;  // null: none
  Plan plan;
  mutable std::mutex plan_mutex;
  ThreadPool pool;
  std::unique_ptr<Weights> weights;
  Workspace workspace;
  std::unique_ptr<Decoder> decoder;
  Turns turn;  // one forward pass at a time
};

// Opens the bundle's manifest and an adapter in `budget` and plans; `plan` is filled even when over budget.
Outcome plan_model(const std::string& path, const Settings& settings, Budget& budget, std::unique_ptr<Bundle>& bundle,
                   std::unique_ptr<Adapter>& adapter, Plan& plan);

class Session {
 public:
  static Result<std::unique_ptr<Session>> create(Model& model);
  ~Session();

  Outcome eval(const Input& input, float* last, float* all);
  // The same for embeddings that a caller gives, with columns values each (session_inputs.cpp).
  Outcome eval_embeddings(const Input& input, uint32_t columns, float* last, float* all);
  // Vectors and scores of texts [count], which have nothing to do with the session's tokens (session_embed.cpp).
  Outcome embed(edgekit_embedding* texts, uint32_t count);
  // What a decoder reads of a picture (session_encode.cpp).
  Outcome encode(const edgekit_patches& patches);
  // Only of models opened for parts.
  Outcome feed_forward(uint32_t block, const float* x, uint32_t tokens, float* out);
  Outcome linear(uint32_t matrix, const float* x, uint32_t columns, uint32_t tokens, float* out, uint32_t rows);
  // The next token of the text, and which session drafts it (generate.cpp).
  Result<int32_t> next(const edgekit_sampling& sampling);
  Outcome advance();
  // Advances sessions [count] of one model, each once, in as few passes as may be; errors [count] says what became of
  // each (together.cpp).
  static void advance_together(Session* const* sessions, uint32_t count, Error* errors);
  bool same_model(const Session& other) const { return &model_ == &other.model_; }
  Outcome set_draft(Session* draft);
  void set_mask(edgekit_mask_callback callback, void* user);
  Outcome logprobs(float* chosen, int32_t* tokens, float* logprobs, uint32_t count);
  void reset();
  Outcome save(const std::string& path);
  Outcome restore(const std::string& path);
  Outcome rewind(uint32_t position);
  Outcome copy_from(const Session& other, uint32_t position);
  uint32_t tokens(int32_t* out, uint32_t room) const;
  void cancel() { cancelled_.store(true); }
  uint32_t position() const { return position_; }
  void capture(edgekit_capture_callback callback, void* user);
  void capture_inputs(edgekit_inputs_callback callback, void* user);
  void stats(edgekit_stats& out) const;

 private:
  explicit Session(Model& model) : model_(model) {}
  Outcome check_batch(uint32_t tokens) const;
  Outcome check(const int32_t* tokens, uint32_t count) const;
  Outcome check_vocabulary_of(const int32_t* tokens, uint32_t count) const;
  Outcome check_writes() const;
  Outcome check_patches(const edgekit_patches& patches) const;
  Outcome check_text(const edgekit_embedding& text) const;
  Outcome embed_together(edgekit_embedding* texts, uint32_t count);
  Outcome embed_apart(edgekit_embedding* texts, uint32_t count);
  Pooled pooled_of(const edgekit_embedding& text) const;
  Outcome finish(Pooled& pooled, edgekit_embedding& text) const;
  struct Moment {
    double begin, waited;
    uint64_t read;
    WindowStats window;
  };
  Moment now() const;
  // Counts `tokens` and what was spent since `from`, or until `to`.
  void count_pass(const Moment& from, uint32_t tokens, bool prompt);
  void count_until(const Moment& from, const Moment& to, uint32_t tokens, bool prompt);
  Outcome eval_batches(const Input& input, float* last, float* all);
  float* logits() { return state_.f32(); }
  Candidate* candidates() { return reinterpret_cast<Candidate*>(state_.f32() + size_t{1 + draft_most_} * vocab_); }
  Outcome check_whole() const;
  Outcome check_tokens_alone(uint32_t begin, uint32_t end) const;
  void note_given(uint32_t begin, uint32_t end);
  void forget_given(uint32_t position);
  Outcome go_back(uint32_t position);
  Outcome evaluate_again(uint32_t position, uint32_t& reached);
  Outcome recover();
  Outcome prepare_pass();
  void keep_checkpoint(bool prompt);
  Outcome check_finite(const float* row, uint32_t position) const;
  void forget_next();
  Outcome append(int32_t token);
  Outcome append_by_pass(int32_t token);
  Result<uint32_t> draft(int32_t token, int32_t* out);
  bool shares_passes() const;
  static void advance_by_one_pass(Session* const* sessions, const uint32_t* members, uint32_t count, Error* errors);
  Outcome take_pass(const Moment& from, const Moment& to);
  Result<uint32_t> continue_text(const int32_t* text, uint32_t count, int32_t* out, uint32_t room);
  Result<const uint32_t*> mask(const uint32_t* given);
  int32_t* history() { return reinterpret_cast<int32_t*>(state_.f32() + size_t{3 + draft_most_} * vocab_); }
  const int32_t* history() const { return const_cast<Session*>(this)->history(); }

  Model& model_;
  KvCache cache_;
  Checkpoints checkpoints_;
  SelectionState selection_;
  Buffer state_;  // logits [1 + draft_most][vocab], candidates [vocab], history [context], mask [mask_words(vocab)]
  edgekit_mask_callback mask_ = nullptr;
  void* mask_user_ = nullptr;
  uint32_t vocab_ = 0, position_ = 0;
  Session* draft_ = nullptr;                    // drafts for this session, if it is not the text that does
  Session* drives_ = nullptr;                   // the session that this one drafts for
  uint32_t draft_most_ = 0, draft_length_ = 4;  // drafted tokens: that fit, and that are worth trying now
  uint32_t given_begin_ = 0, given_end_ = 0;    // positions between which embeddings were given; both 0 if none were
  // What edgekit_session_next is in the middle of: the token that it chose last and has not appended, and drafted
  // tokens behind `position_` that are evaluated already, in the history, and appended when they are chosen.
  int32_t chosen_ = -1;
  uint32_t drafted_ = 0, evaluated_ = 0;  // of the last pass: drafted tokens, and those not appended
  uint32_t row_ = 0;                      // of the logits: those behind `position_`
  bool has_logits_ = false, seeded_ = false;
  Random random_;
  std::atomic<bool> cancelled_{false};
  edgekit_stats stats_{};
};

}  // namespace edgekit
