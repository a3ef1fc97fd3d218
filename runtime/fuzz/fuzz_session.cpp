// A session file, which is also a prompt cache: restored whole, or refused and the session is as after a
// reset; either way it goes on. An empty input is replaced by the file that the model itself saves.
#include "fuzz/bundle.h"

namespace edgekit::fuzz {

namespace {

edgekit_session* open_session() {
  const edgekit_options options = small_options();
  edgekit_error error{};
  static edgekit_model* model = nullptr;  // kept: what nothing points to would be a leak
  edgekit_session* session = nullptr;
  require(edgekit_model_open(base_bundle().c_str(), &options, &model, &error) == EDGEKIT_OK, error.message);
  require(edgekit_session_create(model, &session, &error) == EDGEKIT_OK, error.message);
  return session;
}

}  // namespace

void run(std::string_view input) {
  static edgekit_session* session = open_session();
  static const std::string path = scratch() + "/session";
  const int32_t tokens[3] = {3, 5, 7};
  edgekit_error error{};
  edgekit_session_reset(session);
  if (input.empty()) {
    require(edgekit_session_eval(session, tokens, 3, 0, nullptr, &error) == EDGEKIT_OK, error.message);
    require(edgekit_session_save(session, path.c_str(), &error) == EDGEKIT_OK, error.message);
    const char* out = std::getenv("EDGEKIT_FUZZ_SAVE");
    if (out != nullptr) write_file(out, read_file(path));
  } else {
    write_file(path, input);
  }
  int32_t first[4];
  uint32_t count = 0;
  const edgekit_status peeked = edgekit_saved_tokens(path.c_str(), first, 4, &count, &error);
  require_answer(peeked, error);
  const edgekit_status status = edgekit_session_restore(session, path.c_str(), &error);
  require_answer(status, error);
  require(status == EDGEKIT_OK || !input.empty(), "what was saved can be restored");
  require(status != EDGEKIT_OK || (peeked == EDGEKIT_OK && count == edgekit_session_position(session)),
          "a file that can be restored tells its tokens");
  require(status == EDGEKIT_OK || edgekit_session_position(session) == 0, "a refused file leaves no tokens");
  require(edgekit_session_position(session) <= 16, "no more tokens than the context has room for");
  if (edgekit_session_position(session) == 16) return;
  require_answer(edgekit_session_eval(session, tokens, 1, 0, nullptr, &error), error);
}

}  // namespace edgekit::fuzz
