// The pool of compute threads when some of them do not get a core, and the number of cores that there are.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/cpus.h"
#include "core/threads.h"

using namespace edgekit;

namespace {

std::atomic<bool> held{false};
std::atomic<uint32_t> holding{0};

// Keeps the thread that gets the signal from going on, as a system does that gives its core to others.
void hold_thread(int) {
  holding.fetch_add(1);
  while (held.load()) usleep(100);
  holding.fetch_sub(1);
}

// The threads of a pool but the caller's: each range waits until every thread has one.
std::vector<pthread_t> threads_of(ThreadPool& pool) {
  std::vector<pthread_t> ids(pool.size());
  std::atomic<uint32_t> arrived{0};
  pool.parallel_for(pool.size(), 1, [&](uint32_t, uint32_t, uint32_t worker) {
    ids[worker] = pthread_self();
    arrived.fetch_add(1);
    while (arrived.load() < pool.size()) std::this_thread::yield();
  });
  return {ids.begin() + 1, ids.end()};
}

void visit_everything_once(ThreadPool& pool, uint32_t count, uint32_t grain) {
  std::vector<std::atomic<int>> seen(count);
  pool.parallel_for(count, grain, [&](uint32_t begin, uint32_t end, uint32_t worker) {
    CHECK(worker < pool.size());
    CHECK(begin % grain == 0 && begin < end);
    for (uint32_t i = begin; i < end; ++i) seen[i].fetch_add(1);
  });
  for (auto& s : seen) CHECK(s.load() == 1);
}

}  // namespace

TEST(parallel_for_does_not_wait_for_threads_that_have_no_core) {
  struct sigaction action{};
  action.sa_handler = hold_thread;
  sigaction(SIGUSR1, &action, nullptr);
  alarm(60);  // a pool that waits for them waits for ever
  ThreadPool pool;
  CHECK(pool.start(3, false).ok());
  const std::vector<pthread_t> workers = threads_of(pool);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // they are asleep, and hold no lock
    held.store(true);
    for (pthread_t id : workers) pthread_kill(id, SIGUSR1);
    while (holding.load() < workers.size()) std::this_thread::yield();
    for (uint32_t count = 1; count < 100; count += 7) visit_everything_once(pool, count, 2);
    held.store(false);
    // They come back in the midst of other loops, each longer or shorter than the one they were called for.
    for (uint32_t i = 0; i < 2000; ++i) visit_everything_once(pool, 1 + i * 7 % 50, 1 + i % 5);
    while (holding.load() > 0) std::this_thread::yield();
  }
  alarm(0);
}

TEST(parallel_for_of_many_short_loops_visits_everything_once) {
  for (uint32_t threads : {2u, 5u}) {
    ThreadPool pool;
    CHECK(pool.start(threads, false).ok());
    for (uint32_t i = 0; i < 5000; ++i) visit_everything_once(pool, 2 + i % 9, 1 + i % 3);
    // A thread that is long at its range is waited for, asleep.
    std::atomic<int> finished{0};
    pool.parallel_for(threads, 1, [&](uint32_t begin, uint32_t end, uint32_t worker) {
      if (worker != 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      finished.fetch_add(static_cast<int>(end - begin));  // the caller may compute everything in one call
    });
    CHECK(finished.load() == static_cast<int>(threads));
    for (uint32_t i = 0; i < 100; ++i) visit_everything_once(pool, 64, 4);
  }
}

TEST(parallel_for_visits_everything_once_whether_shared_or_not) {
  ThreadPool pool;
  CHECK(pool.start(3).ok());
  std::atomic<uint32_t> shared{0}, alone{0};
  for (uint32_t i = 0; i < 20000 && (shared.load() == 0 || alone.load() == 0); ++i) {
    visit_everything_once(pool, 2 + i % 9, 1 + i % 3);
    std::atomic<uint32_t> calls{0};
    pool.parallel_for(64, 4, [&](uint32_t, uint32_t, uint32_t) { calls.fetch_add(1); });
    (calls.load() == 1 ? alone : shared).fetch_add(1);
  }
  CHECK(shared.load() > 0 && alone.load() > 0);
}

TEST(threads_number_no_more_than_the_cores_that_may_be_used) {
  const uint32_t cores = usable_cpus();
  CHECK(cores >= 1);
  CHECK(cores <= static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_ONLN)));
#if defined(__linux__)
  cpu_set_t before, one;
  CHECK(sched_getaffinity(0, sizeof(before), &before) == 0);
  CPU_ZERO(&one);
  for (int cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
    if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
  }
  CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
  CHECK(usable_cpus() == 1);
  CHECK(sched_setaffinity(0, sizeof(before), &before) == 0);
  CHECK(usable_cpus() == cores);
#endif
}

#if defined(__linux__)
namespace {
void write_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  CHECK(file != nullptr);
  if (file == nullptr) return;
  std::fputs(text.c_str(), file);
  std::fclose(file);
}
}  // namespace

TEST(a_quota_of_processor_time_counts_as_so_many_cores) {
  char folder[] = "/tmp/edgekit-cgroup-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  const std::string root = folder, groups = root + "/groups";
  const auto run = [](const std::string& command) { CHECK(std::system(command.c_str()) == 0); };
  run("mkdir -p " + root + "/pod/box " + root + "/cpu/pod/box");
  // Version 2: the least of a group's quota and those above it, rounded up.
  write_file(groups, "0::/pod/box\n");
  CHECK(cgroup_cpus(groups, root) == 0);
  write_file(root + "/pod/box/cpu.max", "max 100000\n");
  CHECK(cgroup_cpus(groups, root) == 0);
  write_file(root + "/pod/cpu.max", "250000 100000\n");
  CHECK(cgroup_cpus(groups, root) == 3);
  write_file(root + "/pod/box/cpu.max", "50000 100000\n");
  CHECK(cgroup_cpus(groups, root) == 1);
  // Version 1.
  write_file(groups, "5:memory:/pod\n3:cpu,cpuacct:/pod/box\n");
  CHECK(cgroup_cpus(groups, root) == 0);
  write_file(root + "/cpu/pod/box/cpu.cfs_quota_us", "-1\n");
  write_file(root + "/cpu/pod/box/cpu.cfs_period_us", "100000\n");
  CHECK(cgroup_cpus(groups, root) == 0);
  write_file(root + "/cpu/pod/box/cpu.cfs_quota_us", "350000\n");
  CHECK(cgroup_cpus(groups, root) == 4);
  // A group of a container, of which only the root is mounted here.
  write_file(groups, "3:cpu,cpuacct:/elsewhere\n");
  write_file(root + "/cpu/cpu.cfs_quota_us", "150000\n");
  write_file(root + "/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(cgroup_cpus(groups, root) == 2);
  write_file(groups, "nonsense\n\n::\n");
  CHECK(cgroup_cpus(groups, root) == 0);
  CHECK(cgroup_cpus(root + "/missing", root) == 0);
  run("rm -r " + root);
}
#endif
