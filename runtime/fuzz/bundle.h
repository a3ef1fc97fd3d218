// The bundle that EDGEKIT_FUZZ_BUNDLE names (made by tests/fuzz/seeds.py), and a folder to change copies in.
#pragma once

#include <unistd.h>

#include <fstream>
#include <sstream>

#include "edgekit/edgekit.h"
#include "fuzz/target.h"

namespace edgekit::fuzz {

inline std::string base_bundle() {
  const char* path = std::getenv("EDGEKIT_FUZZ_BUNDLE");
  require(path != nullptr, "EDGEKIT_FUZZ_BUNDLE names a bundle");
  return path;
}

// A folder of this process.
inline const std::string& scratch() {
  static const std::string made = [] {
    std::string path = access("/dev/shm", W_OK) == 0 ? "/dev/shm/edgekit-fuzz-XXXXXX" : "/tmp/edgekit-fuzz-XXXXXX";
    require(mkdtemp(&path[0]) != nullptr, "a scratch folder can be made");
    return path;
  }();
  return made;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void write_file(const std::string& path, std::string_view data) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(data.data(), static_cast<std::streamsize>(data.size()));
}

inline edgekit_options small_options() {
  edgekit_options options{};
  options.struct_size = sizeof(options);
  options.threads = 1;
  options.context = 16;
  options.budget_bytes = 8 << 20;
  return options;
}

inline void require_answer(edgekit_status status, const edgekit_error& error) {
  require(status == EDGEKIT_OK || error.message[0] != '\0', "an error has a message");
}

}  // namespace edgekit::fuzz
