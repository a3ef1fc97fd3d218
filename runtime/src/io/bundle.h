// An open bundle: the manifest, its files, and reads of units that are checked when they arrive.
#pragma once

#include <memory>
#include <string>

#include "core/budget.h"
#include "format/manifest.h"
#include "io/file.h"

namespace edgekit {

class Bundle {
 public:
  static Result<std::unique_ptr<Bundle>> open(const std::string& folder, Budget& budget, uint32_t io_mode);
  ~Bundle() { budget_.give(charged_); }

  const Manifest& manifest() const { return manifest_; }
  const Matrix& matrix(int32_t index) const { return manifest_.matrices[static_cast<size_t>(index)]; }

  // Reads units [first, first + count) of a matrix into `out` [count * unit_stride] and compares
  // their checksums. Thread-safe.
  Outcome read_units(const Matrix& matrix, uint32_t first, uint32_t count, uint8_t* out);
  // For reads by AsyncReader: where a unit lies, and whether what arrived is it.
  File& file(const Matrix& matrix) { return files_[matrix.file]; }
  Outcome check_unit(const Matrix& matrix, uint32_t unit, const uint8_t* data) const;
  // Reads and checks the vectors segment into `out` [vectors_bytes rounded up to 4096].
  Outcome read_vectors(uint8_t* out);
  // Reads everything once, through a buffer of a few units.
  Outcome verify();

  uint64_t bytes_read() const { return files_[0].bytes_read() + files_[1].bytes_read(); }
  bool direct() const { return files_[0].direct() && files_[1].direct(); }

 private:
  explicit Bundle(Budget& budget) : budget_(budget) {}
  Outcome load(const std::string& folder, uint32_t io_mode);

  Budget& budget_;
  uint64_t charged_ = 0;  // the manifest's own memory
  Manifest manifest_;
  File files_[2];
  Buffer checksums_;  // u64 [unit_count]
};

}  // namespace edgekit
