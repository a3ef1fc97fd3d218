// A target without libFuzzer, and with its options: fuzz_NAME [-runs=N] [-seed=N] FILE_OR_FOLDER... replays the files,
// then N mutations of them. An input under which the program dies is left in the file that EDGEKIT_FUZZ_INPUT names.
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "fuzz/target.h"

namespace {

constexpr size_t kRoom = 64 << 10;
constexpr unsigned kSeconds = 10;  // after which an input counts as a hang
std::string current;

void keep() {
  const char* path = std::getenv("EDGEKIT_FUZZ_INPUT");
  if (path != nullptr) std::ofstream(path, std::ios::binary) << current;
}
void stop(int signal) {
  keep();
  std::fprintf(stderr, "signal %d\n", signal);
  _exit(1);
}

void execute(std::string input) {
  current = std::move(input);
  alarm(kSeconds);
  edgekit::fuzz::run(current);
  alarm(0);
}

}  // namespace

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  __sanitizer_set_death_callback(keep);
  std::signal(SIGABRT, stop);
  std::signal(SIGALRM, stop);
  uint64_t runs = 0, seed = 0;
  std::vector<std::string> paths, seeds;
  for (int i = 1; i < count; ++i) {
    const std::string given = arguments[i];
    if (given.rfind("-runs=", 0) == 0) {
      runs = std::strtoull(given.c_str() + 6, nullptr, 10);
    } else if (given.rfind("-seed=", 0) == 0) {
      seed = std::strtoull(given.c_str() + 6, nullptr, 10);
    } else if (fs::is_directory(given)) {
      for (const auto& entry : fs::directory_iterator(given)) paths.push_back(entry.path().string());
    } else {
      paths.push_back(given);
    }
  }
  std::sort(paths.begin(), paths.end());  // so that the same seed does the same
  for (const std::string& path : paths) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    seeds.push_back(text.str());
    execute(seeds.back());
  }
  if (seeds.empty()) return 2;
  for (uint64_t i = 0; i < runs; ++i) {
    std::string input = seeds[i % seeds.size()];
    const size_t size = input.size();
    input.resize(size + kRoom);
    input.resize(edgekit::fuzz::mutate(reinterpret_cast<uint8_t*>(&input[0]), size, input.size(), seed + i));
    execute(std::move(input));
  }
  std::printf("%llu executions\n", static_cast<unsigned long long>(runs + seeds.size()));
  return 0;
}
