// The window's bookkeeping, memory that grows and shrinks, and the reader's many reads.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cache/window.h"
#include "check.h"
#include "edgekit/edgekit.h"
#include "io/async_reader.h"
#include "select/ahead.h"

using namespace edgekit;

namespace {

constexpr uint64_t kSlot = 4096;

Manifest two_matrices(uint32_t units) {
  Manifest m;
  for (int i = 0; i < 3; ++i) {
    Matrix x;
    x.units = units;
    x.unit_stride = kSlot;
    m.matrices.push_back(x);
  }
  return m;
}

struct Fixture {
  Budget budget{0};
  Manifest manifest = two_matrices(64);
  std::vector<uint8_t> windowed{1, 0, 1};
  Window window;
  explicit Fixture(uint64_t slots) {
    CHECK(window.start(budget, manifest, windowed, kSlot, slots * kSlot, 128 * kSlot).ok());
  }
  // What a pass does with one unit; its content names it.
  int32_t use(int32_t matrix, uint32_t unit) {
    int32_t slot = window.find(matrix, unit);
    if (slot == kNone) {
      slot = window.claim(matrix, unit);
      if (slot == kNone) return kNone;
      std::memset(window.data(slot), static_cast<int>(matrix * 64 + static_cast<int32_t>(unit)), kSlot);
      window.state(slot) = Window::ready;
    }
    window.touch(slot);
    window.use(slot);
    return slot;
  }
  bool intact(int32_t matrix, uint32_t unit) {
    const int32_t slot = window.find(matrix, unit);
    if (slot == kNone) return true;
    const uint8_t want = static_cast<uint8_t>(matrix * 64 + static_cast<int32_t>(unit));
    return window.matrix(slot) == matrix && window.unit(slot) == unit && window.data(slot)[0] == want &&
           window.data(slot)[kSlot - 1] == want;
  }
};

std::string file_of(uint64_t bytes) {
  char path[] = "/tmp/edgekit-reads-XXXXXX";
  const int fd = mkstemp(path);
  std::vector<uint8_t> data(bytes);
  for (uint64_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(i / kSlot * 7 + i % 251);
  CHECK(write(fd, data.data(), bytes) == static_cast<ssize_t>(bytes));
  close(fd);
  return path;
}

}  // namespace

TEST(window_finds_what_it_holds_and_never_evicts_the_round) {
  Fixture f(8);
  CHECK(f.window.has(0) && !f.window.has(1) && f.window.has(2));
  uint64_t state = 1;
  for (int pass = 0; pass < 200; ++pass) {
    f.window.begin_pass(UINT32_MAX);
    std::vector<std::pair<int32_t, uint32_t>> round;
    for (int i = 0; i < 8; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const int32_t matrix = (state >> 40 & 1) != 0 ? 0 : 2;
      const uint32_t unit = static_cast<uint32_t>(state >> 50) % 64;
      if (f.use(matrix, unit) != kNone) round.push_back({matrix, unit});
    }
    for (const auto& [matrix, unit] : round) CHECK(f.window.find(matrix, unit) != kNone && f.intact(matrix, unit));
    CHECK(f.window.used() <= 8);
  }
  // Everything pinned: there is no room until the next round.
  f.window.begin_round();
  for (uint32_t u = 0; u < 8; ++u) CHECK(f.use(0, u) != kNone);
  CHECK(f.window.claim(2, 63) == kNone);
  f.window.begin_round();
  CHECK(f.window.claim(2, 63) != kNone);
}

TEST(window_keeps_what_comes_back_often) {
  Fixture f(16);
  uint32_t cold = 0, found = 0;
  for (int pass = 0; pass < 400; ++pass) {
    f.window.begin_pass(UINT32_MAX);
    for (uint32_t u = 0; u < 8; ++u) {  // hot: every pass
      found += f.window.find(0, u) != kNone ? 1 : 0;
      f.use(0, u);
      f.window.begin_round();
    }
    for (int i = 0; i < 12; ++i) {  // cold: one after the other, more than there is room for
      f.use(2, cold++ % 64);
      f.window.begin_round();
    }
  }
  CHECK(found > 390 * 8);  // the last used would have found none of them
}

TEST(window_of_k_passes_forgets_the_rest) {
  Fixture f(64);
  for (uint32_t pass = 0; pass < 10; ++pass) {
    f.window.begin_pass(2);
    f.use(0, pass);
    for (uint32_t u = 0; u <= pass; ++u) CHECK((f.window.find(0, u) != kNone) == (pass - u <= 2));
  }
}

TEST(window_shrinks_and_grows_in_place) {
  Fixture f(100);
  for (int turn = 0; turn < 20; ++turn) {
    f.window.begin_pass(UINT32_MAX);
    for (uint32_t u = 0; u < 50; ++u) f.use(turn % 2 == 0 ? 0 : 2, (u * 7 + static_cast<uint32_t>(turn)) % 64);
    const uint64_t slots = turn % 3 == 0 ? 9 : turn % 3 == 1 ? 60 : 128;
    CHECK(f.window.resize(slots * kSlot).ok());
    CHECK(f.window.slots() == slots && f.window.used() <= slots);
    for (uint32_t u = 0; u < 64; ++u) CHECK(f.intact(0, u) && f.intact(2, u));
  }
  const uint64_t held = f.budget.used();
  CHECK(f.window.resize(2 * kSlot).ok());
  CHECK(f.budget.used() <= held - 100 * kSlot);
}

TEST(region_gives_back_and_keeps_content) {
  Budget budget(1 << 20);
  auto made = Region::reserve(budget, 64 << 20, "test");
  CHECK(made.ok());
  Region region = std::move(made.value());
  CHECK(region.resize(512 << 10).ok());
  std::memset(region.data(), 7, 512 << 10);
  CHECK(region.resize(256 << 10).ok());
  CHECK(budget.used() == 256 << 10);
  CHECK(region.resize(512 << 10).ok());
  CHECK(region.data()[(256 << 10) - 1] == 7 && region.data()[256 << 10] == 0);
  CHECK(!region.resize(2 << 20).ok());   // over the budget
  CHECK(!region.resize(65 << 20).ok());  // over what was reserved
  CHECK(budget.used() == 512 << 10);
}

TEST(reader_brings_every_piece_with_either_engine) {
  const std::string path = file_of(256 * kSlot);
  for (uint32_t engine : {EDGEKIT_IO_ENGINE_AUTO, EDGEKIT_IO_ENGINE_THREADS}) {
    for (uint32_t depth : {1u, 3u, 64u}) {
      File file;
      CHECK(file.open(path, EDGEKIT_IO_AUTO).ok());
      Budget budget(0);
      auto buffer = Buffer::allocate(budget, 256 * kSlot, "test");
      AsyncReader reader;
      CHECK(reader.start(engine, depth, 3).ok());
      std::set<uint32_t> missing;
      for (uint32_t i = 0; i < 256; ++i) {
        const uint32_t unit = i % 5 == 4 ? i : (i * 37 + 11) % 256;  // neighbours and strangers
        if (!missing.insert(unit).second) continue;
        reader.add(file, unit * kSlot, kSlot, buffer.value().data() + unit * kSlot, unit);
      }
      const size_t wanted = missing.size();
      std::vector<uint32_t> arrived, failed;
      while (!reader.idle()) CHECK(reader.reap(true, arrived, failed).ok());
      CHECK(arrived.size() == wanted && failed.empty());
      for (uint32_t unit : arrived) {
        bool same = true;
        for (uint64_t i = 0; i < kSlot; ++i) {
          const uint64_t at = unit * kSlot + i;
          same = same && buffer.value().data()[at] == static_cast<uint8_t>(at / kSlot * 7 + at % 251);
        }
        CHECK(same);
      }
      CHECK(reader.operations() <= wanted);
    }
  }
  unlink(path.c_str());
}

TEST(reads_that_have_not_begun_can_be_withdrawn) {
  const std::string path = file_of(64 * kSlot);
  for (uint32_t engine : {EDGEKIT_IO_ENGINE_AUTO, EDGEKIT_IO_ENGINE_THREADS}) {
    File file;
    CHECK(file.open(path, EDGEKIT_IO_AUTO).ok());
    Budget budget(0);
    auto buffer = Buffer::allocate(budget, 64 * kSlot, "test");
    std::memset(buffer.value().data(), 0, 64 * kSlot);
    AsyncReader reader;
    CHECK(reader.start(engine, 2, 2).ok());
    for (uint32_t unit = 0; unit < 64; unit += 2) {
      reader.add(file, unit * kSlot, kSlot, buffer.value().data() + unit * kSlot, unit);
    }
    reader.flush();  // units 0 and 2 are under way
    std::vector<uint32_t> withdrawn, arrived, failed;
    reader.withdraw([](uint32_t unit) { return unit % 4 == 0; }, withdrawn);
    CHECK(withdrawn.size() == 15 && withdrawn.front() == 4);
    while (!reader.idle()) CHECK(reader.reap(true, arrived, failed).ok());
    CHECK(arrived.size() == 17 && failed.empty());
    CHECK(buffer.value().data()[4 * kSlot + 1] == 0 && buffer.value().data()[6 * kSlot + 1] != 0);
  }
  unlink(path.c_str());
}

TEST(less_is_read_ahead_while_guesses_are_wrong) {
  Ahead ahead;
  const uint32_t first = ahead.surest(1000);
  for (int i = 0; i < 20; ++i) ahead.learn(10, 5);
  const uint32_t bad = ahead.surest(1000);
  CHECK(bad < first && bad >= 1);
  for (int i = 0; i < 1000; ++i) ahead.learn(0, 5);
  CHECK(ahead.surest(1000) < bad && ahead.surest(1) == 1 && ahead.surest(0) == 0);
  for (int i = 0; i < 1000; ++i) ahead.learn(95, 5);
  CHECK(ahead.surest(1000) == 1000);
}

TEST(reader_reports_a_file_that_ends_too_early) {
  const std::string path = file_of(16 * kSlot);
  CHECK(truncate(path.c_str(), 15 * kSlot + 904) == 0);  // within a piece: a short read, and then nothing
  for (uint32_t engine : {EDGEKIT_IO_ENGINE_AUTO, EDGEKIT_IO_ENGINE_THREADS}) {
    File file;
    CHECK(file.open(path, EDGEKIT_IO_AUTO).ok());
    Budget budget(0);
    auto buffer = Buffer::allocate(budget, 64 * kSlot, "test");
    AsyncReader reader;
    CHECK(reader.start(engine, 2, 2).ok());
    for (uint32_t unit = 11; unit < 41; unit += 2) {
      reader.add(file, unit * kSlot, kSlot, buffer.value().data() + unit * kSlot, unit);
    }
    std::vector<uint32_t> arrived, failed;
    Error error;
    while (!reader.idle()) {
      auto outcome = reader.reap(true, arrived, failed);
      if (!outcome.ok()) error = outcome.error();
    }
    CHECK(error.status == EDGEKIT_IO);
    CHECK(arrived.size() + failed.size() == 15 && arrived.size() <= 3);
  }
  unlink(path.c_str());
}
