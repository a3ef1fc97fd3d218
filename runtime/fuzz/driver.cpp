// A target without libFuzzer: fuzz_NAME RUNS SEED FILE... replays the files, then RUNS mutations of them.
// An input under which the program dies is left in the file that EDGEKIT_FUZZ_INPUT names.
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
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
  if (count < 4) return 2;
  __sanitizer_set_death_callback(keep);
  std::signal(SIGABRT, stop);
  std::signal(SIGALRM, stop);
  const uint64_t runs = std::strtoull(arguments[1], nullptr, 10), seed = std::strtoull(arguments[2], nullptr, 10);
  std::vector<std::string> seeds;
  for (int i = 3; i < count; ++i) {
    std::ifstream in(arguments[i], std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    seeds.push_back(text.str());
    execute(seeds.back());
  }
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
