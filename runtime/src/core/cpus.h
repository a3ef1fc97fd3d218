// How many cores this process may use, which can be fewer than the machine has.
#pragma once

#include <cstdint>
#include <string>

namespace edgekit {

// The cores that the process may run on, and no more than its share of processor time amounts to; at least 1.
uint32_t usable_cpus();

// The share of processor time that control groups (cgroups, version 1 or 2) grant, in cores and rounded up; 0 when
// there is no limit. `groups` is a file like /proc/self/cgroup, `root` a folder like /sys/fs/cgroup.
uint32_t cgroup_cpus(const std::string& groups, const std::string& root);

}  // namespace edgekit
