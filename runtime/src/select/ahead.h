// How much of a block is read ahead. The surest of what the predictor names a block early are read while
// others compute; how many, follows from how often that was right. A read in vain takes the device's time
// and a slot of the window, so more than one in five is too many (docs/design/0002-flash.md).
#pragma once

#include <algorithm>
#include <cstdint>

namespace edgekit {

class Ahead {
 public:
  // Of `named` neurons or experts, how many to read ahead; not none, which would teach nothing.
  uint32_t surest(uint32_t named) const {
    return std::min(named, std::max(1u, static_cast<uint32_t>(share_ * static_cast<float>(named))));
  }
  // `right` and `wrong` of those read ahead were needed and not needed.
  void learn(uint32_t right, uint32_t wrong) {
    if (right + wrong == 0) return;
    right_ = kMemory * right_ + static_cast<float>(right);
    wrong_ = kMemory * wrong_ + static_cast<float>(wrong);
    const bool good = right_ * (1 - kRight) >= wrong_ * kRight;
    share_ = std::clamp(share_ * (good ? 1 + kStep : 1 - kStep), kLeast, 1.0f);
  }

 private:
  static constexpr float kRight = 0.8f, kMemory = 0.8f, kStep = 0.05f, kLeast = 0.02f;
  float share_ = 0.75f, right_ = 0, wrong_ = 0;
};

}  // namespace edgekit
