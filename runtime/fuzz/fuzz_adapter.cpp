// A LoRA adapter's file, which says that it is of the bundle: refused, or a text is evaluated with it. An empty input
// stands for the file beside the bundle.
#include "fuzz/bundle.h"

namespace edgekit::fuzz {

void run(std::string_view input) {
  static const std::string path = scratch() + "/adapter";
  write_file(path, input.empty() ? read_file(base_bundle() + "/whole.lora") : input);
  edgekit_options options = small_options();
  options.lora = path.c_str();
  edgekit_error error{};
  edgekit_model* model = nullptr;
  const edgekit_status status = edgekit_model_open(base_bundle().c_str(), &options, &model, &error);
  require_answer(status, error);
  require(status == EDGEKIT_OK || !input.empty(), "an adapter that was made for the bundle is taken");
  if (status != EDGEKIT_OK) return;
  edgekit_session* session = nullptr;
  const int32_t tokens[3] = {3, 5, 7};
  if (edgekit_session_create(model, &session, &error) == EDGEKIT_OK) {
    require_answer(edgekit_session_eval(session, tokens, 3, 0, nullptr, &error), error);
    require_answer(edgekit_session_eval(session, tokens, 1, 0, nullptr, &error), error);
  }
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}

}  // namespace edgekit::fuzz
