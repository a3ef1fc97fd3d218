// A LoRA adapter of a bundle: for some parts of its matrices two small matrices, whose product is added to the weights
// (arXiv 2106.09685). docs/format.md describes the file; nothing of it is believed before it is checked.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "format/manifest.h"

namespace edgekit {

// What is added to one part: y += up (down x), the adapter's scale already in `up`.
struct LowRank {
  uint32_t rank = 0, inputs = 0, outputs = 0;
  const float* down = nullptr;  // [rank][inputs]
  const float* up = nullptr;    // [rank][outputs]: by column of the second matrix, so that whole rows are added
};

class Adapter {
 public:
  // Reads a file that was made for the bundle of `manifest`.
  static Result<std::unique_ptr<Adapter>> open(const std::string& path, const Manifest& manifest, Budget& budget);

  // What is added to a part of a matrix; null if nothing.
  const LowRank* find(int32_t matrix, uint32_t part) const;
  uint64_t checksum() const { return checksum_; }
  uint32_t most_rank() const { return most_rank_; }
  // Whether it changes what the neurons of feed-forward blocks give.
  bool changes_neurons() const { return changes_neurons_; }

 private:
  struct Entry {
    int32_t matrix;
    uint32_t part;
    LowRank values;
  };
  Outcome read(const std::string& path, const Manifest& manifest);
  Outcome add(const std::string& path, const Manifest& manifest, const uint8_t* row);

  Buffer data_;  // the whole file
  uint64_t size_ = 0, checksum_ = 0;
  uint32_t most_rank_ = 0;
  bool changes_neurons_ = false;
  std::vector<Entry> entries_;  // by matrix, then part
};

}  // namespace edgekit
