// A bundle with a forged manifest: the input is its manifest.json without the first line. It is planned,
// opened, and evaluates a few tokens, within a budget.
#include "fuzz/bundle.h"

namespace edgekit::fuzz {

void run(std::string_view input) {
  static const bool ready = [] {
    for (const char* name : {"/resident.bin", "/flash.bin", "/units.bin"}) {
      write_file(scratch() + name, read_file(base_bundle() + name));
    }
    return true;
  }();
  require(ready, "the bundle is there");
  write_file(scratch() + "/manifest.json", sign(input));
  const edgekit_options options = small_options();
  edgekit_error error{};
  edgekit_model* model = nullptr;
  edgekit_status status = edgekit_model_open(scratch().c_str(), &options, &model, &error);
  require_answer(status, error);
  if (status != EDGEKIT_OK) return;
  edgekit_session* session = nullptr;
  status = edgekit_session_create(model, &session, &error);
  require_answer(status, error);
  const int32_t tokens[3] = {3, 5, 7};
  for (uint32_t count : {3u, 1u}) {
    if (status != EDGEKIT_OK) break;
    status = edgekit_session_eval(session, tokens, count, 0, nullptr, &error);
    require_answer(status, error);
  }
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}

}  // namespace edgekit::fuzz
