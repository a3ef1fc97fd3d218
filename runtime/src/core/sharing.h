// Whether a loop is shared with other threads or computed by the caller alone, by what both have cost so far.
#pragma once

#include <array>
#include <cstdint>

namespace edgekit {

// An account of time. What a shared loop takes less than the same loop alone is a gain, what it takes more a loss.
// While losses do not exceed gains, loops are shared. Then the caller computes alone for many times as long as was
// lost, twice as many after each trial that fails, and tries again: so sharing never costs more than a small part of
// the time, whatever keeps the other cores busy, and is soon taken up again when they are free. All times in seconds.
class Sharing {
 public:
  // Loops over the same body and count, which take about the same time.
  struct Kind {
    uint64_t name = 0;
    double alone = 0;  // what the caller takes alone while nothing disturbs it, an average; 0: not measured yet
    uint32_t measured = 0, shared = 0;  // times that it was measured, and loops shared since
  };

  explicit Sharing(uint32_t threads = 1) : threads_(threads) {}

  // The record of the kind with a name (not 0), which may take the place of another one's.
  Kind& find(uint64_t name);
  // Whether the loop at hand, which begins at `now`, is to be shared.
  bool shares(Kind& kind, double now);
  // A loop was computed alone in `seconds`.
  void count_alone(Kind& kind, double seconds);
  // A loop was shared and ended at `now` after `seconds`; `guess` is what it may have taken alone: while that was
  // never measured, losses are counted by it, but no gains.
  void count_shared(Kind& kind, double seconds, double guess, double now);

 private:
  // What a loop would have taken alone, disturbed as often as loops are.
  double expected(const Kind& kind) const;

  uint32_t threads_;
  std::array<Kind, 128> kinds_{};
  // Loops that were computed alone, and what their averages say of them: the first is more when others take the core
  // away now and then. They begin as if measured for a while, and old ones count less and less.
  double taken_ = kRemembered / 4, averaged_ = kRemembered / 4;
  double credit_ = kTrial;  // what may be lost before the caller goes alone
  double alone_until_ = 0;
  double patience_ = kLeastPatience;  // so many times what a trial lost passes until the next one
  static constexpr double kTrial = 100e-6, kMostCredit = 10e-3, kMostLoss = 20e-3;
  static constexpr double kRemembered = 80e-3;
  static constexpr double kLeastPatience = 10, kMostPatience = 160;
};

}  // namespace edgekit
