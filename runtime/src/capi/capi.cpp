// The C ABI: translates, and nothing else.
#include <algorithm>
#include <cstring>

#include "edgekit/edgekit.h"
#include "measure/measure.h"
#include "model/engine.h"

using edgekit::Error;
using edgekit::fail;

struct edgekit_model {
  std::unique_ptr<edgekit::Model> model;
};
struct edgekit_session {
  std::unique_ptr<edgekit::Session> session;
};

namespace {

edgekit_status report(const Error& from, edgekit_error* error) {
  if (error != nullptr) {
    error->status = from.status;
    const size_t n = std::min(from.message.size(), sizeof(error->message) - 1);
    std::memcpy(error->message, from.message.data(), n);
    error->message[n] = '\0';
  }
  return from.status;
}

edgekit_status invalid(const char* what, edgekit_error* error) {
  return report(fail(EDGEKIT_INVALID_ARGUMENT, what), error);
}

void fill_plan(const edgekit::Plan& from, edgekit_plan& out) {
  out = edgekit_plan{};
  out.struct_size = sizeof(edgekit_plan);
  out.context = from.context;
  out.max_batch = from.max_batch;
  out.budget_bytes = from.budget_bytes;
  out.floor_bytes = from.floor_bytes;
  out.weight_bytes = from.weight_bytes;
  out.resident_bytes = from.resident_bytes;
  out.streamed_bytes = from.streamed_bytes;
  out.kv_bytes = from.kv_bytes;
  out.activation_bytes = from.activation_bytes;
  out.stream_buffer_bytes = from.stream_bytes;
  out.window_bytes = from.window_bytes;
  out.select = from.select;
}

bool known(const edgekit_sampling* s) { return s != nullptr && s->struct_size == sizeof(edgekit_sampling); }

}  // namespace

uint32_t edgekit_abi_version(void) { return EDGEKIT_ABI_VERSION; }
const char* edgekit_version(void) { return EDGEKIT_VERSION_STRING; }
const char* edgekit_features(void) {
  return "all,exact,predicted,threshold,prompt,router,budget,save,feed_forward,products,log,draft"
#if defined(__linux__)
         ",uring"
#endif
      ;
}
const char* edgekit_kernel_sets(void) { return edgekit::kernel_set_names(); }

edgekit_status edgekit_plan_bundle(const char* path, const edgekit_options* options, edgekit_plan* plan,
                                   edgekit_error* error) {
  if (path == nullptr || plan == nullptr) return invalid("path and plan must not be NULL", error);
  *plan = edgekit_plan{};
  auto settings = edgekit::settings_from(options);
  if (!settings.ok()) return report(settings.error(), error);
  edgekit::Budget budget(0);
  std::unique_ptr<edgekit::Bundle> bundle;
  edgekit::Plan made;
  auto outcome = edgekit::plan_model(path, settings.value(), budget, bundle, made);
  fill_plan(made, *plan);
  return report(outcome.error(), error);
}

edgekit_status edgekit_model_open(const char* path, const edgekit_options* options, edgekit_model** model,
                                  edgekit_error* error) {
  if (path == nullptr || model == nullptr) return invalid("path and model must not be NULL", error);
  *model = nullptr;
  auto settings = edgekit::settings_from(options);
  if (!settings.ok()) return report(settings.error(), error);
  auto made = edgekit::Model::open(path, settings.value());
  if (!made.ok()) return report(made.error(), error);
  *model = new edgekit_model{std::move(made.value())};
  return report(Error{}, error);
}

void edgekit_model_close(edgekit_model* model) { delete model; }

void edgekit_model_info(const edgekit_model* model, edgekit_info* info) {
  const edgekit::Manifest& m = model->model->bundle->manifest();
  *info = edgekit_info{};
  info->struct_size = sizeof(edgekit_info);
  info->vocab_size = m.vocab_size;
  info->hidden_size = m.hidden_size;
  info->max_context = m.max_context;
  info->blocks = static_cast<uint32_t>(m.blocks.size());
  info->threads = model->model->pool.size();
  std::strncpy(info->kernels, model->model->settings.kernels->name, sizeof(info->kernels) - 1);
}

void edgekit_model_plan(const edgekit_model* model, edgekit_plan* plan) { fill_plan(model->model->plan, *plan); }

edgekit_status edgekit_model_set_budget(edgekit_model* model, uint64_t ram_bytes, edgekit_error* error) {
  if (model == nullptr) return invalid("model must not be NULL", error);
  return report(model->model->set_budget(ram_bytes).error(), error);
}

edgekit_status edgekit_verify_bundle(const char* path, edgekit_error* error) {
  if (path == nullptr) return invalid("path must not be NULL", error);
  edgekit::Budget budget(0);
  auto bundle = edgekit::Bundle::open(path, budget, EDGEKIT_IO_AUTO);
  if (!bundle.ok()) return report(bundle.error(), error);
  return report(bundle.value()->verify().error(), error);
}

edgekit_status edgekit_session_create(edgekit_model* model, edgekit_session** session, edgekit_error* error) {
  if (model == nullptr || session == nullptr) return invalid("model and session must not be NULL", error);
  *session = nullptr;
  auto made = edgekit::Session::create(*model->model);
  if (!made.ok()) return report(made.error(), error);
  *session = new edgekit_session{std::move(made.value())};
  return report(Error{}, error);
}

void edgekit_session_destroy(edgekit_session* session) { delete session; }
void edgekit_session_reset(edgekit_session* session) { session->session->reset(); }
uint32_t edgekit_session_position(const edgekit_session* session) { return session->session->position(); }
void edgekit_session_stats(const edgekit_session* session, edgekit_stats* stats) {
  // As much as the caller has room for; those who do not say know the first version.
  constexpr uint32_t kFirst = offsetof(edgekit_stats, window_vain);
  edgekit_stats all;
  session->session->stats(all);
  all.struct_size = std::min<uint32_t>(stats->struct_size != 0 ? stats->struct_size : kFirst, sizeof(all));
  std::memcpy(stats, &all, all.struct_size);
}
void edgekit_session_capture(edgekit_session* session, edgekit_capture_callback callback, void* user) {
  session->session->capture(callback, user);
}
void edgekit_session_cancel(edgekit_session* session) { session->session->cancel(); }

edgekit_status edgekit_session_eval(edgekit_session* session, const int32_t* tokens, uint32_t count,
                                    uint32_t all_logits, float* logits, edgekit_error* error) {
  if (session == nullptr || (tokens == nullptr && count != 0))
    return invalid("session and tokens must not be NULL", error);
  float* all = all_logits != 0 ? logits : nullptr;
  float* last = all_logits != 0 ? nullptr : logits;
  return report(session->session->eval(tokens, count, last, all).error(), error);
}

edgekit_status edgekit_session_save(edgekit_session* session, const char* path, edgekit_error* error) {
  if (session == nullptr || path == nullptr) return invalid("session and path must not be NULL", error);
  return report(session->session->save(path).error(), error);
}

edgekit_status edgekit_session_restore(edgekit_session* session, const char* path, edgekit_error* error) {
  if (session == nullptr || path == nullptr) return invalid("session and path must not be NULL", error);
  return report(session->session->restore(path).error(), error);
}

edgekit_status edgekit_session_rewind(edgekit_session* session, uint32_t position, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  return report(session->session->rewind(position).error(), error);
}

uint32_t edgekit_session_tokens(const edgekit_session* session, int32_t* tokens, uint32_t room) {
  return session->session->tokens(tokens, room);
}

edgekit_status edgekit_session_sample(edgekit_session* session, const edgekit_sampling* sampling, int32_t* token,
                                      edgekit_error* error) {
  if (session == nullptr || token == nullptr || !known(sampling)) {
    return invalid("session, sampling (with its struct_size) and token must be given", error);
  }
  auto sampled = session->session->sample(*sampling);
  if (sampled.ok()) *token = sampled.value();
  return report(sampled.error(), error);
}

edgekit_status edgekit_session_guess(edgekit_session* session, int32_t token, int32_t* tokens, uint32_t room,
                                     uint32_t* count, edgekit_error* error) {
  if (session == nullptr || tokens == nullptr || count == nullptr) {
    return invalid("session, tokens and count must not be NULL", error);
  }
  auto guessed = session->session->guess(token, tokens, room);
  *count = guessed.ok() ? guessed.value() : 0;
  return report(guessed.error(), error);
}

edgekit_status edgekit_session_verify(edgekit_session* session, const int32_t* tokens, uint32_t count,
                                      const edgekit_sampling* sampling, uint32_t* kept, int32_t* next,
                                      edgekit_error* error) {
  if (session == nullptr || tokens == nullptr || !known(sampling) || kept == nullptr || next == nullptr) {
    return invalid("session, tokens, sampling (with its struct_size), kept and next must be given", error);
  }
  return report(session->session->verify(tokens, count, *sampling, *kept, *next).error(), error);
}

edgekit_status edgekit_session_set_draft(edgekit_session* session, edgekit_session* draft, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  return report(session->session->set_draft(draft == nullptr ? nullptr : draft->session.get()).error(), error);
}

edgekit_status edgekit_session_generate(edgekit_session* session, const int32_t* prompt, uint32_t prompt_count,
                                        uint32_t max_tokens, const int32_t* stop_tokens, uint32_t stop_count,
                                        const edgekit_sampling* sampling, edgekit_token_callback callback, void* user,
                                        edgekit_error* error) {
  if (session == nullptr || prompt == nullptr || !known(sampling) || (stop_tokens == nullptr && stop_count != 0)) {
    return invalid("session, prompt and sampling (with its struct_size) must be given", error);
  }
  return report(
      session->session->generate(prompt, prompt_count, max_tokens, stop_tokens, stop_count, *sampling, callback, user)
          .error(),
      error);
}

edgekit_status edgekit_session_feed_forward(edgekit_session* session, uint32_t block, const float* x, uint32_t tokens,
                                            float* out, edgekit_error* error) {
  if (session == nullptr || x == nullptr || out == nullptr) return invalid("session, x and out must be given", error);
  return report(session->session->feed_forward(block, x, tokens, out).error(), error);
}

edgekit_status edgekit_session_linear(edgekit_session* session, uint32_t matrix, const float* x, uint32_t columns,
                                      uint32_t tokens, float* out, uint32_t rows, edgekit_error* error) {
  if (session == nullptr || x == nullptr || out == nullptr) return invalid("session, x and out must be given", error);
  return report(session->session->linear(matrix, x, columns, tokens, out, rows).error(), error);
}

edgekit_status edgekit_sample(const float* logits, uint32_t vocab, const edgekit_sampling* sampling,
                              const int32_t* history, uint32_t history_count, uint64_t* random_state, int32_t* token,
                              edgekit_error* error) {
  if (logits == nullptr || vocab == 0 || !known(sampling) || (history == nullptr && history_count != 0) ||
      random_state == nullptr || token == nullptr) {
    return invalid("logits, sampling (with its struct_size), random_state and token must be given", error);
  }
  std::vector<edgekit::Candidate> candidates(vocab);
  edgekit::Random random(*random_state);
  *token = static_cast<int32_t>(
      edgekit::sample_token(logits, vocab, *sampling, history, history_count, random, candidates.data()));
  *random_state = random.state();
  return report(Error{}, error);
}

edgekit_status edgekit_measure_reads(const char* path, edgekit_read_test* test, edgekit_error* error) {
  if (path == nullptr || test == nullptr || test->struct_size != sizeof(edgekit_read_test)) {
    return invalid("path and test (with its struct_size) must be given", error);
  }
  return report(edgekit::measure_reads(path, *test).error(), error);
}

edgekit_status edgekit_measure_kernel(edgekit_kernel_test* test, edgekit_error* error) {
  if (test == nullptr || test->struct_size != sizeof(edgekit_kernel_test)) {
    return invalid("test (with its struct_size) must be given", error);
  }
  return report(edgekit::measure_kernel(*test).error(), error);
}
