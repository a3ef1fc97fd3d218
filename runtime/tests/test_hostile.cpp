// A damaged or malicious bundle is answered with an error. The bundle to damage is made by the test
// that runs this program (tests/hostile/) and named by EDGEKIT_TEST_BUNDLE; it is changed in place.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "check.h"
#include "core/checksum.h"
#include "edgekit/edgekit.h"
#include "format/manifest.h"
#include "sampling/sampler.h"

using namespace edgekit;

namespace {

std::string folder() {
  const char* path = std::getenv("EDGEKIT_TEST_BUNDLE");
  return path != nullptr ? path : "";
}
std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}
void write(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
}
bool parses(const std::string& text) {
  Budget budget(0);
  return parse_manifest(text, budget).ok();
}

// The manifest with a checksum that fits it: what an attacker would send.
std::string sign(std::string text) {
  const size_t line = text.find('\n') + 1;
  const uint64_t sum = lane64(reinterpret_cast<const uint8_t*>(text.data()) + line, text.size() - line);
  char hex[17];
  std::snprintf(hex, sizeof(hex), "%016llx", static_cast<unsigned long long>(sum));
  text.replace(13, 16, hex);
  return text;
}

// Opens and runs the bundle; whatever happens, it must be an answer.
edgekit_status run(uint64_t ram) {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.context = 16;
  options.budget_bytes = ram;
  edgekit_error error;
  edgekit_model* model = nullptr;
  edgekit_status status = edgekit_model_open(folder().c_str(), &options, &model, &error);
  if (status != EDGEKIT_OK) {
    CHECK(error.message[0] != '\0');
    return status;
  }
  edgekit_session* session = nullptr;
  status = edgekit_session_create(model, &session, &error);
  const int32_t tokens[4] = {3, 5, 7, 9};
  if (status == EDGEKIT_OK) status = edgekit_session_eval(session, tokens, 4, 0, nullptr, &error);
  if (status == EDGEKIT_OK) status = edgekit_session_eval(session, tokens, 1, 0, nullptr, &error);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
  return status;
}

}  // namespace

TEST(hostile_truncated_manifests_are_refused) {
  if (folder().empty()) return;
  const std::string text = read(folder() + "/manifest.json");
  CHECK(parses(text));
  for (size_t n = 0; n + 1 < text.size(); ++n) CHECK(!parses(text.substr(0, n)));
  const size_t line = text.find('\n') + 1;
  for (size_t n = line; n + 2 < text.size(); n += 3) CHECK(!parses(sign(text.substr(0, n))));
}

TEST(hostile_flipped_manifest_bytes_are_refused) {
  if (folder().empty()) return;
  std::string text = read(folder() + "/manifest.json");
  Random random(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const char before = text[i];
    text[i] = static_cast<char>(before ^ (1 << static_cast<int>(random.uniform() * 8)));
    CHECK(!parses(text));
    text[i] = before;
  }
}

// Numbers at their extremes and names that lead elsewhere, under a valid checksum: refused, or harmless.
TEST(hostile_manifest_values_never_crash) {
  if (folder().empty()) return;
  const std::string path = folder() + "/manifest.json", original = read(path);
  const char* values[] = {"0",     "1",   "31",   "4095", "4294967295", "4294967296", "18446744073709551615", "-1",
                          "1e300", "0.5", "null", "[]",   "{}",         "\"\"",       "\"../../etc/passwd\"", "true"};
  size_t changed = 0;
  for (size_t at = original.find(": ", 40); at != std::string::npos; at = original.find(": ", at + 1)) {
    const size_t begin = at + 2, end = original.find_first_of(",\n", begin);
    if (original[begin] == '{' || original[begin] == '[') continue;
    const char* value = values[changed++ % (sizeof(values) / sizeof(values[0]))];
    std::string text = original;
    text.replace(begin, end - begin, value);
    text = sign(text);
    if (!parses(text)) continue;
    write(path, text);
    run(0);
    run(1 << 20);
  }
  CHECK(changed > 100);
  write(path, original);
  CHECK(run(0) == EDGEKIT_OK);
}

TEST(hostile_flipped_weight_bytes_are_refused) {
  if (folder().empty()) return;
  Random random(2);
  for (const char* name : {"resident.bin", "flash.bin", "units.bin"}) {
    const std::string path = folder() + "/" + name, original = read(path);
    for (int i = 0; i < 40; ++i) {
      std::string data = original;
      const size_t at = static_cast<size_t>(random.uniform() * static_cast<double>(data.size()));
      data[at] = static_cast<char>(data[at] ^ (1 << i % 8));
      write(path, data);
      edgekit_error error;
      const bool padding = edgekit_verify_bundle(folder().c_str(), &error) == EDGEKIT_OK;
      // Only what lies between the vectors and the first unit is read by nobody.
      CHECK(!padding || std::strcmp(name, "resident.bin") == 0);
      if (!padding) CHECK(run(0) != EDGEKIT_OK);
    }
    for (size_t n : {size_t{0}, size_t{1}, original.size() / 2, original.size() - 1}) {
      write(path, original.substr(0, n));
      CHECK(run(0) != EDGEKIT_OK);
    }
    write(path, original);
  }
  CHECK(run(0) == EDGEKIT_OK);
}

// What is streamed is checked when it arrives, also after the file was cut short under an open model.
TEST(hostile_file_replaced_during_a_run_is_noticed) {
  if (folder().empty()) return;
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 2;
  options.context = 16;
  edgekit_plan plan{};
  plan.struct_size = sizeof(plan);
  edgekit_error error;
  CHECK(edgekit_plan_bundle(folder().c_str(), &options, &plan, &error) == EDGEKIT_OK);
  options.budget_bytes = plan.floor_bytes;
  const std::string path = folder() + "/flash.bin", original = read(path);
  for (int kind = 0; kind < 2; ++kind) {
    edgekit_model* model = nullptr;
    edgekit_session* session = nullptr;
    CHECK(edgekit_model_open(folder().c_str(), &options, &model, &error) == EDGEKIT_OK);
    CHECK(edgekit_session_create(model, &session, &error) == EDGEKIT_OK);
    const int32_t token = 3;
    CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, &error) == EDGEKIT_OK);
    write(path, kind == 0 ? original.substr(0, 5000) : std::string(original.size(), 'x'));
    edgekit_status status = EDGEKIT_OK;
    for (int i = 0; i < 3 && status == EDGEKIT_OK; ++i)
      status = edgekit_session_eval(session, &token, 1, 0, nullptr, &error);
    CHECK(status == EDGEKIT_IO || status == EDGEKIT_CORRUPT);
    CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, &error) != EDGEKIT_OK);
    write(path, original);
    CHECK(edgekit_session_eval(session, &token, 1, 0, nullptr, &error) == EDGEKIT_OK);
    edgekit_session_destroy(session);
    edgekit_model_close(model);
  }
}

TEST(hostile_calls_are_refused) {
  if (folder().empty()) return;
  edgekit_options options{};
  edgekit_error error;
  edgekit_model* model = nullptr;
  CHECK(edgekit_model_open(folder().c_str(), &options, &model, &error) == EDGEKIT_INVALID_ARGUMENT);  // no struct_size
  options.struct_size = sizeof(options);
  options.context = 16;
  CHECK(edgekit_model_open("/nowhere", &options, &model, &error) == EDGEKIT_NOT_FOUND);
  CHECK(edgekit_model_open(folder().c_str(), &options, &model, &error) == EDGEKIT_OK);
  edgekit_session* session = nullptr;
  CHECK(edgekit_session_create(model, &session, &error) == EDGEKIT_OK);
  int32_t token = 0;
  edgekit_sampling sampling{};
  sampling.struct_size = sizeof(sampling);
  CHECK(edgekit_session_next(session, &sampling, &token, &error) == EDGEKIT_INVALID_ARGUMENT);
  const int32_t bad[2] = {3, 1 << 30};
  CHECK(edgekit_session_eval(session, bad, 2, 0, nullptr, &error) == EDGEKIT_INVALID_ARGUMENT);
  CHECK(edgekit_session_position(session) == 0);
  std::vector<int32_t> many(17, 3);
  CHECK(edgekit_session_eval(session, many.data(), 17, 0, nullptr, &error) == EDGEKIT_CONTEXT_FULL);
  CHECK(edgekit_session_eval(session, many.data(), 16, 0, nullptr, &error) == EDGEKIT_OK);
  CHECK(edgekit_session_eval(session, many.data(), 1, 0, nullptr, &error) == EDGEKIT_CONTEXT_FULL);
  edgekit_session_reset(session);
  edgekit_session_cancel(session);
  CHECK(edgekit_session_eval(session, many.data(), 1, 0, nullptr, &error) == EDGEKIT_CANCELLED);
  CHECK(edgekit_session_eval(session, many.data(), 1, 0, nullptr, &error) == EDGEKIT_OK);
  edgekit_session_destroy(session);
  edgekit_model_close(model);
}
