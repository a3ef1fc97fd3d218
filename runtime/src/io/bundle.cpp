#include "io/bundle.h"

#include <algorithm>
#include <cstring>

#include "core/checksum.h"

namespace edgekit {

namespace {
constexpr uint64_t kMostManifestBytes = 64 << 20;  // thousands of experts make a few MiB

uint64_t round_up(uint64_t bytes) { return (bytes + kUnitAlignment - 1) / kUnitAlignment * kUnitAlignment; }
}  // namespace

Result<std::unique_ptr<Bundle>> Bundle::open(const std::string& folder, Budget& budget, uint32_t io_mode) {
  std::unique_ptr<Bundle> out(new Bundle(budget));
  EK_TRY(out->load(folder, io_mode));
  return out;
}

Outcome Bundle::load(const std::string& folder, uint32_t io_mode) {
  std::string text;
  // Once for the text, which goes away below, and once for the parsed manifest, which is smaller than its text.
  EK_ASSIGN(text, read_text(folder + "/manifest.json", kMostManifestBytes, budget_, 2, "a manifest"));
  charged_ = text.size();
  {
    auto parsed = parse_manifest(text, budget_);
    budget_.give(text.size());
    if (!parsed.ok()) return fail(parsed.error().status, folder + ": " + parsed.error().message);
    manifest_ = std::move(parsed.value());
  }
  for (int i = 0; i < 2; ++i) {
    EK_TRY(files_[i].open(folder + "/" + manifest_.files[i], io_mode));
    if (files_[i].size() != manifest_.file_bytes[i]) {
      return fail(EDGEKIT_CORRUPT, folder + "/" + manifest_.files[i] + " has " + std::to_string(files_[i].size()) +
                                       " bytes, the manifest says " + std::to_string(manifest_.file_bytes[i]));
    }
  }
  const std::string units_path = folder + "/" + manifest_.units_file;
  File units;
  EK_TRY(units.open(units_path, EDGEKIT_IO_BUFFERED));
  const uint64_t bytes = manifest_.unit_count * 8;
  if (units.size() != bytes) return fail(EDGEKIT_CORRUPT, units_path + " has the wrong size");
  EK_ASSIGN(checksums_, Buffer::allocate(budget_, bytes, "unit checksums"));
  EK_TRY(units.read(0, bytes, checksums_.data()));
  if (lane64(checksums_.data(), bytes) != manifest_.units_checksum) {
    return fail(EDGEKIT_CORRUPT, units_path + " is damaged; convert the checkpoint again");
  }
  return Nothing{};
}

Outcome Bundle::read_units(const Matrix& matrix, uint32_t first, uint32_t count, uint8_t* out) {
  const uint64_t stride = matrix.unit_stride;
  EK_TRY(files_[matrix.file].read(matrix.offset + first * stride, count * stride, out));
  for (uint32_t i = 0; i < count; ++i) EK_TRY(check_unit(matrix, first + i, out + i * stride));
  return Nothing{};
}

Outcome Bundle::check_unit(const Matrix& matrix, uint32_t unit, const uint8_t* data) const {
  uint64_t expected;
  std::memcpy(&expected, checksums_.data() + 8 * (matrix.first_unit + unit), 8);
  if (lane64(data, matrix.unit_stride) == expected) return Nothing{};
  return fail(EDGEKIT_CORRUPT, "unit " + std::to_string(unit) + " of " + matrix.name + " in " +
                                   manifest_.files[matrix.file] +
                                   " is damaged (checksum differs); convert the checkpoint again");
}

Outcome Bundle::read_vectors(uint8_t* out) {
  const uint64_t bytes = manifest_.vectors_bytes;
  if (round_up(bytes) > manifest_.file_bytes[0]) {
    return fail(EDGEKIT_CORRUPT, manifest_.files[0] + " is too short for its vectors");
  }
  EK_TRY(files_[0].read(0, round_up(bytes), out));
  if (lane64(out, bytes) != manifest_.vectors_checksum) {
    return fail(EDGEKIT_CORRUPT, "the vectors in " + manifest_.files[0] +
                                     " are damaged (checksum differs); convert the checkpoint again");
  }
  return Nothing{};
}

Outcome Bundle::verify() {
  constexpr uint64_t kWindow = 4 << 20;
  uint64_t largest = round_up(manifest_.vectors_bytes);
  for (const Matrix& m : manifest_.matrices) largest = std::max(largest, m.unit_stride);
  Buffer buffer;
  EK_ASSIGN(buffer, Buffer::allocate(budget_, std::max(kWindow, largest), "verify buffer"));
  EK_TRY(read_vectors(buffer.data()));
  for (const Matrix& m : manifest_.matrices) {
    const uint32_t step = static_cast<uint32_t>(std::max<uint64_t>(1, kWindow / m.unit_stride));
    for (uint32_t u = 0; u < m.units; u += step) {
      EK_TRY(read_units(m, u, std::min(step, m.units - u), buffer.data()));
    }
  }
  return Nothing{};
}

}  // namespace edgekit
