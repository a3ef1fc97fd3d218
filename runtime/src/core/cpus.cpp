#include "core/cpus.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace edgekit {

namespace {

// The beginning of a small file; empty when there is none.
std::string read_text(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return "";
  std::string text(8192, '\0');
  text.resize(std::fread(&text[0], 1, text.size(), file));
  std::fclose(file);
  return text;
}

// `quota` of every `period` microseconds, in cores rounded up; 0 for no limit, which is "max" or -1.
uint32_t cores_of(const std::string& quota, const std::string& period) {
  const long long q = std::atoll(quota.c_str()), p = std::atoll(period.c_str());
  if (q <= 0 || p <= 0) return 0;
  return static_cast<uint32_t>(std::clamp((q - 1) / p + 1, 1LL, 1LL << 20));
}

void lower(uint32_t& least, uint32_t cores) {
  if (cores != 0 && (least == 0 || cores < least)) least = cores;
}

// The least quota of a group and of those above it: `path` begins with a slash and lies below `mount`.
uint32_t quota_up_to_root(const std::string& mount, std::string path, bool second) {
  uint32_t least = 0;
  while (true) {
    const std::string group = mount + path;
    if (second) {
      const std::string text = read_text(group + "/cpu.max");  // "QUOTA PERIOD"
      const size_t space = text.find(' ');
      if (space != std::string::npos) lower(least, cores_of(text.substr(0, space), text.substr(space + 1)));
    } else {
      lower(least, cores_of(read_text(group + "/cpu.cfs_quota_us"), read_text(group + "/cpu.cfs_period_us")));
    }
    if (path.empty()) return least;
    path.resize(path.rfind('/'));
  }
}

bool contains(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

}  // namespace

uint32_t cgroup_cpus(const std::string& groups, const std::string& root) {
  uint32_t least = 0;
  const std::string text = read_text(groups);  // lines "NUMBER:CONTROLLERS:/PATH"; version 2 has no controllers
  for (size_t at = 0; at < text.size();) {
    const std::string line = text.substr(at, text.find('\n', at) - at);
    at += line.size() + 1;
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size() || line[second + 1] != '/') continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) lower(least, quota_up_to_root(root, path, true));
    if (contains(controllers, "cpu")) lower(least, quota_up_to_root(root + "/cpu", path, false));
  }
  return least;
}

uint32_t usable_cpus() {
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  uint32_t cores = static_cast<uint32_t>(std::max(1L, online));
#if defined(__linux__)
  constexpr int kMostCpus = 8192;
  std::vector<cpu_set_t> set(kMostCpus / (8 * sizeof(cpu_set_t)));
  const size_t bytes = set.size() * sizeof(cpu_set_t);
  if (sched_getaffinity(0, bytes, set.data()) == 0) {
    cores = std::clamp(static_cast<uint32_t>(CPU_COUNT_S(bytes, set.data())), 1u, cores);
  }
  lower(cores, cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup"));
#endif
  return cores;
}

}  // namespace edgekit
