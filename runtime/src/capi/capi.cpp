// The C ABI: translates, and nothing else.
#include <algorithm>
#include <cstring>

#include "capi/handles.h"
#include "capi/structs.h"
#include "edgekit/edgekit.h"
#include "encode/trellis_rows.h"
#include "measure/measure.h"
#include "model/engine.h"

using edgekit::Error;
using edgekit::fail;
using edgekit::invalid;
using edgekit::report;

namespace {

edgekit_plan plan_struct(const edgekit::Plan& from) {
  edgekit_plan out{};
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
  return out;
}

// The options with every default filled in; NULL: all are defaults.
edgekit::Result<edgekit::Settings> settings_from(const edgekit_options* given) {
  edgekit_options options{};
  if (given != nullptr) EK_TRY(edgekit::copy_in(given, options, "edgekit_options"));
  return edgekit::settings_from(options);
}

edgekit::Result<edgekit_sampling> sampling_from(const edgekit_sampling* given) {
  edgekit_sampling sampling;
  EK_TRY(edgekit::copy_in(given, sampling, "edgekit_sampling"));
  EK_TRY(edgekit::check_sampling(sampling));
  return sampling;
}

}  // namespace

uint32_t edgekit_abi_version(void) { return EDGEKIT_ABI_VERSION; }
const char* edgekit_version(void) { return EDGEKIT_VERSION_STRING; }
const char* edgekit_features(void) {
  return "all,exact,predicted,threshold,prompt,router,budget,save,feed_forward,linear,log,draft,mask,logprobs,"
         "penalties,activations,sessions,copy,embed,lora,embeddings,pictures"
#if defined(__linux__)
         ",uring"
#endif
      ;
}
const char* edgekit_kernel_sets(void) { return edgekit::kernel_set_names(); }

const char* edgekit_codecs(void) {
#define EK_CODEC(name, manifest_name, bits, form) "," manifest_name ":" #bits
  static const char list[] =
#include "kernels/kernels.inc"
      ;
#undef EK_CODEC
  return list + 1;  // without the first comma
}

edgekit_status edgekit_default_options(edgekit_options* options, edgekit_error* error) {
  return report(edgekit::copy_out(edgekit::default_options(), options, "edgekit_options").error(), error);
}

edgekit_status edgekit_default_sampling(edgekit_sampling* sampling, edgekit_error* error) {
  return report(edgekit::copy_out(edgekit::default_sampling(), sampling, "edgekit_sampling").error(), error);
}

edgekit_status edgekit_plan_bundle(const char* path, const edgekit_options* options, edgekit_plan* plan,
                                   edgekit_error* error) {
  if (path == nullptr) return invalid("path must not be NULL", error);
  edgekit::Plan made;
  auto emptied = edgekit::copy_out(plan_struct(made), plan, "edgekit_plan");
  if (!emptied.ok()) return report(emptied.error(), error);
  auto settings = settings_from(options);
  if (!settings.ok()) return report(settings.error(), error);
  edgekit::Budget budget(0);
  std::unique_ptr<edgekit::Bundle> bundle;
  std::unique_ptr<edgekit::Adapter> adapter;
  auto outcome = edgekit::plan_model(path, settings.value(), budget, bundle, adapter, made);
  auto copied = edgekit::copy_out(plan_struct(made), plan, "edgekit_plan");
  return report(outcome.ok() ? copied.error() : outcome.error(), error);
}

edgekit_status edgekit_model_open(const char* path, const edgekit_options* options, edgekit_model** model,
                                  edgekit_error* error) {
  if (path == nullptr || model == nullptr) return invalid("path and model must not be NULL", error);
  *model = nullptr;
  auto settings = settings_from(options);
  if (!settings.ok()) return report(settings.error(), error);
  auto made = edgekit::Model::open(path, settings.value());
  if (!made.ok()) return report(made.error(), error);
  *model = new edgekit_model{std::move(made.value())};
  return report(Error{}, error);
}

void edgekit_model_close(edgekit_model* model) { delete model; }

edgekit_status edgekit_model_info(const edgekit_model* model, edgekit_info* info, edgekit_error* error) {
  if (model == nullptr) return invalid("model must not be NULL", error);
  const edgekit::Manifest& m = model->model->bundle->manifest();
  edgekit_info all{};
  all.vocab_size = m.vocab_size;
  all.hidden_size = m.hidden_size;
  all.max_context = m.max_context;
  all.blocks = static_cast<uint32_t>(m.blocks.size());
  all.threads = model->model->pool.size();
  std::strncpy(all.kernels, model->model->settings.kernels->name, sizeof(all.kernels) - 1);
  all.output = static_cast<uint32_t>(m.output);
  all.pooling = static_cast<uint32_t>(m.pooling.mode);
  all.max_length = m.pooling.max_length;
  if (m.output == edgekit::Output::image) {
    const auto matrix = [&](int32_t i) { return m.matrices[static_cast<size_t>(i)]; };
    all.patch_columns = matrix(m.embedding_project).parts[0].cols;
    all.merged_patches = m.merge.patches;
    all.picture_columns = matrix(m.head).rows;
    all.picture_positions = m.position != edgekit::kNone ? matrix(m.position).rows : 0;
  }
  return report(edgekit::copy_out(all, info, "edgekit_info").error(), error);
}

edgekit_status edgekit_model_plan(const edgekit_model* model, edgekit_plan* plan, edgekit_error* error) {
  if (model == nullptr) return invalid("model must not be NULL", error);
  return report(edgekit::copy_out(plan_struct(model->model->current_plan()), plan, "edgekit_plan").error(), error);
}

edgekit_status edgekit_model_set_budget(edgekit_model* model, uint64_t budget_bytes, edgekit_error* error) {
  if (model == nullptr) return invalid("model must not be NULL", error);
  return report(model->model->set_budget(budget_bytes).error(), error);
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
void edgekit_session_reset(edgekit_session* session) {
  if (session != nullptr) session->session->reset();
}

uint32_t edgekit_session_position(const edgekit_session* session) {
  return session != nullptr ? session->session->position() : 0;
}

edgekit_status edgekit_session_stats(const edgekit_session* session, edgekit_stats* stats, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  edgekit_stats all;
  session->session->stats(all);
  return report(edgekit::copy_out(all, stats, "edgekit_stats").error(), error);
}

void edgekit_session_capture(edgekit_session* session, edgekit_capture_callback callback, void* user) {
  if (session != nullptr) session->session->capture(callback, user);
}

void edgekit_session_capture_inputs(edgekit_session* session, edgekit_inputs_callback callback, void* user) {
  if (session != nullptr) session->session->capture_inputs(callback, user);
}

void edgekit_session_cancel(edgekit_session* session) {
  if (session != nullptr) session->session->cancel();
}

edgekit_status edgekit_session_eval(edgekit_session* session, const int32_t* tokens, uint32_t count,
                                    uint32_t all_logits, float* logits, edgekit_error* error) {
  if (session == nullptr || (tokens == nullptr && count != 0))
    return invalid("session and tokens must not be NULL", error);
  float* all = all_logits != 0 ? logits : nullptr;
  float* last = all_logits != 0 ? nullptr : logits;
  return report(session->session->eval({tokens, count}, last, all).error(), error);
}

edgekit_status edgekit_session_eval_embeddings(edgekit_session* session, const edgekit_input* input,
                                               uint32_t all_logits, float* logits, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  edgekit_input given;
  auto copied = edgekit::copy_in(input, given, "edgekit_input");
  if (!copied.ok()) return report(copied.error(), error);
  if (given.tokens == nullptr || given.rows == nullptr) return invalid("tokens and rows must not be NULL", error);
  float* all = all_logits != 0 ? logits : nullptr;
  float* last = all_logits != 0 ? nullptr : logits;
  const edgekit::Input rows{given.tokens, given.count, given.rows, given.both_ways != 0};
  return report(session->session->eval_embeddings(rows, given.columns, last, all).error(), error);
}

edgekit_status edgekit_session_embed(edgekit_session* session, edgekit_embedding* texts, uint32_t count,
                                     edgekit_error* error) {
  if (session == nullptr || texts == nullptr || count == 0) {
    return invalid("session and texts must be given, and count be at least 1", error);
  }
  auto size = edgekit::struct_size(texts, "edgekit_embedding");
  if (!size.ok()) return report(size.error(), error);
  std::vector<edgekit_embedding> all(count);
  auto* bytes = reinterpret_cast<uint8_t*>(texts);
  for (uint32_t i = 0; i < count; ++i) {
    auto* at = bytes + size_t{i} * size.value();
    auto copied = edgekit::copy_in(at, all[i], "edgekit_embedding");
    if (!copied.ok()) return report(copied.error(), error);
    if (edgekit::struct_size(at, "edgekit_embedding").value() != size.value()) {
      return invalid("the texts must have one struct_size", error);
    }
  }
  auto outcome = session->session->embed(all.data(), count);
  for (uint32_t i = 0; i < count; ++i) {
    (void)edgekit::copy_out(all[i], bytes + size_t{i} * size.value(), "edgekit_embedding");
  }
  return report(outcome.error(), error);
}

edgekit_status edgekit_session_encode(edgekit_session* session, const edgekit_patches* patches, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  edgekit_patches given;
  auto copied = edgekit::copy_in(patches, given, "edgekit_patches");
  if (!copied.ok()) return report(copied.error(), error);
  return report(session->session->encode(given).error(), error);
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

edgekit_status edgekit_session_copy(edgekit_session* session, const edgekit_session* from, uint32_t position,
                                    edgekit_error* error) {
  if (session == nullptr || from == nullptr) return invalid("session and from must not be NULL", error);
  if (session == from || !session->session->same_model(*from->session)) {
    return invalid("the sessions must be two of one model", error);
  }
  return report(session->session->copy_from(*from->session, position).error(), error);
}

uint32_t edgekit_session_tokens(const edgekit_session* session, int32_t* tokens, uint32_t room) {
  if (session == nullptr) return 0;
  return session->session->tokens(tokens, tokens != nullptr ? room : 0);
}

edgekit_status edgekit_session_next(edgekit_session* session, const edgekit_sampling* sampling, int32_t* token,
                                    edgekit_error* error) {
  if (session == nullptr || token == nullptr) return invalid("session and token must not be NULL", error);
  auto given = sampling_from(sampling);
  if (!given.ok()) return report(given.error(), error);
  auto chosen = session->session->next(given.value());
  if (chosen.ok()) *token = chosen.value();
  return report(chosen.error(), error);
}

edgekit_status edgekit_session_advance(edgekit_session* session, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  return report(session->session->advance().error(), error);
}

edgekit_status edgekit_sessions_advance(edgekit_session* const* sessions, uint32_t count, edgekit_error* errors,
                                        edgekit_error* error) {
  if (sessions == nullptr || errors == nullptr || count == 0) {
    return invalid("sessions and errors must be given, and count be at least 1", error);
  }
  std::vector<edgekit::Session*> all;
  for (uint32_t i = 0; i < count; ++i) {
    if (sessions[i] == nullptr) return invalid("a session must not be NULL", error);
    all.push_back(sessions[i]->session.get());
    if (!all[0]->same_model(*all[i])) return invalid("the sessions must be of one model", error);
  }
  std::vector<edgekit::Session*> sorted = all;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    return invalid("a session must not be given twice", error);
  }
  std::vector<Error> outcomes(count);
  edgekit::Session::advance_together(all.data(), count, outcomes.data());
  Error first;
  for (uint32_t i = 0; i < count; ++i) {
    report(outcomes[i], errors + i);
    if (first.status == EDGEKIT_OK) first = outcomes[i];
  }
  return report(first, error);
}

edgekit_status edgekit_session_set_draft(edgekit_session* session, edgekit_session* draft, edgekit_error* error) {
  if (session == nullptr) return invalid("session must not be NULL", error);
  return report(session->session->set_draft(draft == nullptr ? nullptr : draft->session.get()).error(), error);
}

void edgekit_session_set_mask(edgekit_session* session, edgekit_mask_callback callback, void* user) {
  if (session != nullptr) session->session->set_mask(callback, user);
}

edgekit_status edgekit_session_logprobs(edgekit_session* session, float* chosen, int32_t* tokens, float* logprobs,
                                        uint32_t count, edgekit_error* error) {
  if (session == nullptr || (count != 0 && (tokens == nullptr || logprobs == nullptr))) {
    return invalid("session, tokens and logprobs must not be NULL", error);
  }
  return report(session->session->logprobs(chosen, tokens, logprobs, count).error(), error);
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
  if (logits == nullptr || vocab == 0 || (history == nullptr && history_count != 0) || random_state == nullptr ||
      token == nullptr) {
    return invalid("logits, history, random_state and token must be given", error);
  }
  auto given = sampling_from(sampling);
  if (!given.ok()) return report(given.error(), error);
  const uint32_t* mask = given.value().mask;
  auto checked = edgekit::check_vocabulary(given.value(), vocab);
  if (!checked.ok()) return report(checked.error(), error);
  if (mask != nullptr && !edgekit::allows_any(mask, vocab)) return invalid("the mask allows no token", error);
  if (!edgekit::all_finite(logits, vocab)) {
    return report(fail(EDGEKIT_NOT_FINITE, "the logits are not finite"), error);
  }
  std::vector<edgekit::Candidate> candidates(vocab);
  edgekit::Random random(*random_state);
  *token = static_cast<int32_t>(
      edgekit::sample_token(logits, vocab, given.value(), {history, history_count, mask}, random, candidates.data()));
  *random_state = random.state();
  return report(Error{}, error);
}

edgekit_status edgekit_measure_reads(const char* path, edgekit_read_test* test, edgekit_error* error) {
  if (path == nullptr) return invalid("path must not be NULL", error);
  edgekit_read_test all;
  auto copied = edgekit::copy_in(test, all, "edgekit_read_test");
  if (!copied.ok()) return report(copied.error(), error);
  auto measured = edgekit::measure_reads(path, all);
  if (!measured.ok()) return report(measured.error(), error);
  return report(edgekit::copy_out(all, test, "edgekit_read_test").error(), error);
}

edgekit_status edgekit_measure_kernel(edgekit_kernel_test* test, edgekit_error* error) {
  edgekit_kernel_test all;
  auto copied = edgekit::copy_in(test, all, "edgekit_kernel_test");
  if (!copied.ok()) return report(copied.error(), error);
  auto measured = edgekit::measure_kernel(all);
  if (!measured.ok()) return report(measured.error(), error);
  return report(edgekit::copy_out(all, test, "edgekit_kernel_test").error(), error);
}

edgekit_status edgekit_trellis_encode(edgekit_trellis* job, edgekit_error* error) {
  edgekit_trellis all;
  auto copied = edgekit::copy_in(job, all, "edgekit_trellis");
  if (!copied.ok()) return report(copied.error(), error);
  auto encoded = edgekit::encode_trellis(all);
  if (!encoded.ok()) return report(encoded.error(), error);
  return report(edgekit::copy_out(all, job, "edgekit_trellis").error(), error);
}
