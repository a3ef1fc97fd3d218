#include "core/sharing.h"

#include <algorithm>
#include <cstddef>

namespace edgekit {

namespace {
// One shared loop in so many, times the threads, is computed alone to know what that takes now: with n threads it
// takes n times as long, so that this costs a sixty-fourth of the time. At first more often, for the first loops find
// cold caches.
constexpr uint32_t kMeasureEvery = 64, kMeasureFirst = 4;
// Weights of a new measurement below the average and above it: what disturbs makes loops longer, never shorter.
constexpr double kLowerWeight = 1.0 / 2, kHigherWeight = 1.0 / 8;
// Loops so long are not computed alone only to measure them: waking others is nothing beside them, and the ranges that
// the caller computed tell enough.
constexpr double kLong = 1e-3;
constexpr double kLeast = 100e-9;  // that is measured; a coarse clock may show none at all
constexpr double kOutlier = 4;     // a measurement beyond so many times the average counts as this
}  // namespace

Sharing::Kind& Sharing::find(uint64_t name) {
  constexpr size_t kProbes = 8;
  const size_t home = (name ^ name >> 32) % kinds_.size();
  for (size_t i = 0; i < kProbes; ++i) {
    Kind& kind = kinds_[(home + i) % kinds_.size()];
    if (kind.name == name) return kind;
    if (kind.name == 0) return kind = Kind{name};
  }
  return kinds_[home] = Kind{name};
}

bool Sharing::shares(Kind& kind, double now) {
  if (now < alone_until_) return false;
  const uint32_t every = std::min(kMeasureEvery, kMeasureFirst << std::min(kind.measured, 8u));
  return ++kind.shared < every * threads_;
}

void Sharing::count_alone(Kind& kind, double seconds) {
  kind.shared = 0;
  if (kind.measured++ == 0) {
    kind.alone = std::max(seconds, kLeast);
    return;
  }
  const double change = std::min(seconds, kOutlier * kind.alone) - kind.alone;
  kind.alone += change * (change < 0 ? kLowerWeight : kHigherWeight);
  taken_ += std::min(seconds, kMostLoss);
  averaged_ += kind.alone;
  if (averaged_ > kRemembered) {
    taken_ /= 2;
    averaged_ /= 2;
  }
}

double Sharing::expected(const Kind& kind) const { return kind.alone * taken_ / averaged_; }

void Sharing::count_shared(Kind& kind, double seconds, double guess, double now) {
  if (kind.measured == 0 && seconds > kLong) kind.shared = 0;
  credit_ += kind.measured > 0 ? expected(kind) - seconds : std::min(0.0, guess - seconds);
  if (credit_ >= kMostCredit) {
    credit_ = kMostCredit;
    patience_ = kLeastPatience;
  }
  if (credit_ >= 0) return;
  alone_until_ = now + patience_ * std::min(kMostLoss, kTrial - credit_);
  patience_ = std::min(kMostPatience, 2 * patience_);
  credit_ = kTrial;
}

}  // namespace edgekit
