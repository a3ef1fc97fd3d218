// When loops are shared with other threads and when not, on a clock that the tests turn.
#include "check.h"
#include "core/sharing.h"

using namespace edgekit;

namespace {

struct Clock {
  Sharing sharing{2};
  double now = 1000;
  uint32_t shared = 0, alone = 0;

  // One loop that takes `one` seconds alone and `two` shared.
  void run(uint64_t name, double one, double two) {
    Sharing::Kind& kind = sharing.find(name);
    if (sharing.shares(kind, now)) {
      now += two;
      ++shared;
      sharing.count_shared(kind, two, one, now);
    } else {
      now += one;
      ++alone;
      sharing.count_alone(kind, one);
    }
  }
};

constexpr double kMicro = 1e-6;

}  // namespace

TEST(loops_that_sharing_makes_faster_are_shared) {
  Clock clock;
  for (int i = 0; i < 100000; ++i) clock.run(1 + i % 7, 20 * kMicro, 11 * kMicro);
  CHECK(clock.now - 1000 < 100000 * 11 * kMicro * 1.02);
  CHECK(clock.alone >= 7);  // what they take alone is measured now and then
}

TEST(long_loops_are_not_computed_alone_to_measure_them) {
  Clock clock;
  for (int i = 0; i < 2000; ++i) clock.run(1 + i % 7, 10000 * kMicro, 5500 * kMicro);
  CHECK(clock.alone == 0);
}

TEST(loops_that_sharing_makes_slower_are_computed_alone) {
  for (double length : {2 * kMicro, 20 * kMicro, 2000 * kMicro}) {
    for (double loss : {1.05, 1.5, 10.0}) {
      Clock clock;
      const int loops = static_cast<int>(2 / length);  // two seconds
      for (int i = 0; i < loops; ++i) clock.run(1 + i % 7, length, length * loss);
      CHECK(clock.now - 1000 < 2 * 1.05);
    }
  }
}

TEST(a_long_wait_now_and_then_ends_sharing_only_where_it_costs_more_than_sharing_gains) {
  // Another process takes the core for 3 ms after every 3 ms in which the loops are shared.
  for (double gain : {0.6, 0.1}) {  // a loop's time shared, of its time alone: two threads, or many
    Clock clock;
    double work = 0, free = 3e-3;
    for (int i = 0; i < 200000; ++i) {
      const double two = 20 * kMicro * gain + (free <= 0 ? 3e-3 : 0);
      const uint32_t shared = clock.shared;
      if (free <= 0) free = 3e-3;
      clock.run(1 + i % 7, 20 * kMicro, two);
      if (clock.shared > shared) free -= 20 * kMicro * gain;
      work += 20 * kMicro;
    }
    const double always = work * (gain + gain);  // as long again as computing takes
    CHECK(clock.now - 1000 < 1.05 * (always < work ? always * 1.1 : work));
  }
}

TEST(kinds_of_loops_are_kept_apart) {
  Sharing sharing(2);
  for (uint64_t name = 1; name < 60; ++name) sharing.count_alone(sharing.find(name << 32), static_cast<double>(name));
  for (uint64_t name = 1; name < 60; ++name) CHECK(sharing.find(name << 32).alone == static_cast<double>(name));
  // More than there is room for: a kind that lost its place is measured anew.
  for (uint64_t name = 1; name < 1000; ++name) CHECK(sharing.find(name << 7).name == name << 7);
}

TEST(a_clock_that_stood_still_at_first_does_not_decide_for_ever) {
  Clock clock;
  for (int i = 0; i < 200; ++i) clock.run(1, 0, 0);
  const double before = clock.now;
  for (int i = 0; i < 100000; ++i) clock.run(1, 20 * kMicro, 11 * kMicro);
  CHECK(clock.now - before < 100000 * 11 * kMicro * 1.05);
}

TEST(cold_first_loops_do_not_make_sharing_look_good) {
  Clock clock;
  const auto run = [&](int i, double one, double two) {
    const double cold = i < 100 ? 10 : 1;
    clock.run(1 + i % 7, one * cold, two * cold);
  };
  for (int i = 0; i < 50000; ++i) run(i, 20 * kMicro, 40 * kMicro);
  CHECK(clock.now - 1000 < 50000 * 20 * kMicro * 1.05);
}

TEST(on_a_machine_where_every_core_is_busy_sharing_is_judged_by_what_it_gains) {
  // Another process takes every core for 3 ms after each 3 ms, whoever computes; then nothing can be said of one loop.
  for (double gain : {0.6, 1.5}) {
    Clock clock;
    double work = 0, free = 3e-3;
    for (int i = 0; i < 200000; ++i) {
      const double stop = free <= 0 ? 3e-3 : 0, before = clock.now;
      clock.run(1 + i % 7, 20 * kMicro + stop, 20 * kMicro * gain + stop);
      free = stop > 0 ? 3e-3 : free - (clock.now - before);
      work += 20 * kMicro;
    }
    CHECK(clock.now - 1000 < 2 * work * (gain < 1 ? gain * 1.1 : 1.05));
  }
}

TEST(sharing_is_taken_up_again_when_it_pays_again) {
  Clock clock;
  for (int i = 0; i < 50000; ++i) clock.run(1 + i % 7, 20 * kMicro, 60 * kMicro);
  const double before = clock.now;
  for (int i = 0; i < 100000; ++i) clock.run(1 + i % 7, 20 * kMicro, 11 * kMicro);
  CHECK(clock.now - before < 100000 * 11 * kMicro * 1.05);
}

TEST(one_stop_of_the_whole_process_is_forgotten_soon) {
  Clock clock;
  for (int i = 0; i < 1000; ++i) clock.run(1 + i % 7, 20 * kMicro, 11 * kMicro);
  clock.run(1, 20 * kMicro, 3600);
  const double before = clock.now;
  for (int i = 0; i < 200000; ++i) clock.run(1 + i % 7, 20 * kMicro, 11 * kMicro);
  CHECK(clock.now - before < 200000 * 11 * kMicro + 0.5);
}

TEST(what_a_loop_takes_alone_follows_its_growth) {
  // A loop over a context that grows: what was measured at its beginning says nothing later.
  Clock clock;
  double least = 0;
  for (int i = 0; i < 100000; ++i) {
    const double one = (2 + i * 1e-3) * kMicro;
    clock.run(1, one, one * 0.6);
    least += one * 0.6;
  }
  CHECK(clock.now - 1000 < least * 1.1);
}
