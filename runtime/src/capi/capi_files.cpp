// The part of the C ABI that is about files which are no bundles.
#include "capi/handles.h"
#include "edgekit/edgekit.h"
#include "model/session_file.h"

using edgekit::invalid;
using edgekit::report;

edgekit_status edgekit_saved_tokens(const char* path, int32_t* tokens, uint32_t room, uint32_t* count,
                                    edgekit_error* error) {
  if (path == nullptr || count == nullptr) return invalid("path and count must not be NULL", error);
  *count = 0;
  auto found = edgekit::saved_tokens(path, tokens, tokens != nullptr ? room : 0);
  if (found.ok()) *count = found.value();
  return report(found.error(), error);
}

edgekit_status edgekit_model_save_warm(edgekit_model* model, const char* path, edgekit_error* error) {
  if (model == nullptr || path == nullptr) return invalid("model and path must not be NULL", error);
  return report(model->model->save_warm(path).error(), error);
}

edgekit_status edgekit_model_load_warm(edgekit_model* model, const char* path, edgekit_error* error) {
  if (model == nullptr || path == nullptr) return invalid("model and path must not be NULL", error);
  return report(model->model->load_warm(path).error(), error);
}
