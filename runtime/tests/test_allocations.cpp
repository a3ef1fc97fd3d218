// A token of a model that is in memory allocates nothing: what it needs was charged to the budget when the model was
// opened. On the bundle named by EDGEKIT_TEST_BUNDLE.
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "check.h"
#include "edgekit/edgekit.h"

namespace {
std::atomic<uint64_t> allocations{0};

void* counted(size_t bytes) {
  allocations.fetch_add(1);
  void* data = std::malloc(bytes == 0 ? 1 : bytes);
  if (data == nullptr) std::abort();
  return data;
}
}  // namespace

// The program's own, so that every std::vector, std::function and std::string of the runtime is counted.
void* operator new(size_t bytes) { return counted(bytes); }
void* operator new[](size_t bytes) { return counted(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete[](void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
void operator delete[](void* data, size_t) noexcept { std::free(data); }

TEST(allocations_are_counted) {
  const uint64_t before = allocations.load();
  std::vector<int> some(100);
  CHECK(some.size() == 100 && allocations.load() > before);
}

TEST(allocations_of_tokens_of_a_resident_model_are_none) {
  const char* bundle = std::getenv("EDGEKIT_TEST_BUNDLE");
  if (bundle == nullptr) return;
  uint32_t opened = 0;
  for (uint32_t select : {EDGEKIT_SELECT_ALL, EDGEKIT_SELECT_EXACT, EDGEKIT_SELECT_PREDICTED, EDGEKIT_SELECT_THRESHOLD,
                          EDGEKIT_SELECT_PROMPT, EDGEKIT_SELECT_ROUTER}) {
    edgekit_options options{};
    options.struct_size = sizeof(options);
    options.threads = 2;
    options.context = 48;
    options.select = select;
    edgekit_model* model = nullptr;
    const auto status = edgekit_model_open(bundle, &options, &model, nullptr);
    CHECK(status == EDGEKIT_OK || (select != EDGEKIT_SELECT_ALL && status == EDGEKIT_INVALID_ARGUMENT));
    if (status != EDGEKIT_OK) continue;  // the bundle does not offer it
    ++opened;
    edgekit_session* session = nullptr;
    CHECK(edgekit_session_create(model, &session, nullptr) == EDGEKIT_OK);
    const int32_t prompt[5] = {3, 4, 5, 6, 7};
    CHECK(edgekit_session_eval(session, prompt, 5, 0, nullptr, nullptr) == EDGEKIT_OK);
    CHECK(edgekit_session_eval(session, prompt, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
    const uint64_t before = allocations.load();
    CHECK(edgekit_session_eval(session, prompt, 5, 0, nullptr, nullptr) == EDGEKIT_OK);
    for (int i = 0; i < 10; ++i) {
      const int32_t token = 10 + i;
      CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, nullptr) == EDGEKIT_OK);
    }
    CHECK(allocations.load() == before);
    edgekit_session_destroy(session);
    edgekit_model_close(model);
  }
  CHECK(opened > 0);
}
