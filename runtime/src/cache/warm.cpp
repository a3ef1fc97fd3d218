#include "cache/warm.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "core/checksum.h"
#include "io/whole_file.h"

namespace edgekit {

namespace {

constexpr char kMagic[8] = {'E', 'K', 'W', 'A', 'R', 'M', '0', '1'};
constexpr uint32_t kChunk = 1024;  // counts
// What was learned from other texts weighs less than what this one uses (docs/results/warm.md).
constexpr float kWeight = 0.25f;
constexpr float kMost = 1e6f;  // a use counts half after 32 passes, so that honest sums stay below 100

struct Header {
  char magic[8];
  uint64_t manifest;  // checksum of the bundle's manifest.json
  uint64_t bytes;     // of the whole file
  uint32_t matrices;
  uint32_t unused[7];
  uint64_t checksum;  // of everything before it
};
static_assert(sizeof(Header) == 64, "the header is 64 bytes");

struct Entry {
  uint32_t matrix, units;
};

uint64_t header_checksum(const Header& h) { return lane64(bytes_of(&h), sizeof(h) - sizeof(h.checksum)); }

// Bytes of a matrix in a file; its units were counted when the manifest was read, so nothing overflows.
uint64_t entry_bytes(uint32_t units) {
  return 8 + sizeof(Entry) + uint64_t{units} * sizeof(float) + uint64_t{(units + kChunk - 1) / kChunk} * 8;
}

Error damaged(const std::string& path) {
  return fail(EDGEKIT_CORRUPT, path + ": holds no counts of units of this version, or is damaged; remove it");
}

Outcome read_header(const std::string& path, int fd, const Manifest& m, Header& header) {
  uint64_t size = 0;
  EK_TRY(check_opened(path, fd, size));
  if (!transfer(fd, bytes_of(&header), sizeof(header), false) ||
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.checksum != header_checksum(header) ||
      header.bytes != size) {
    return damaged(path);
  }
  if (header.manifest != m.checksum) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                path + ": was saved with another bundle, or before this one's manifest.json changed; remove it");
  }
  return Nothing{};
}

// Calls take(matrix, first, counts, n) for every chunk of an open file whose header was read.
template <class Take>
Outcome read_counts(const std::string& path, int fd, const Manifest& m, const Header& header, const Take& take) {
  float counts[kChunk];
  uint64_t bytes = sizeof(Header), next = 0;
  for (uint32_t i = 0; i < header.matrices; ++i) {
    Entry entry{};
    if (!read_chunk(fd, &entry, sizeof(entry)) || entry.matrix < next || entry.matrix >= m.matrices.size() ||
        entry.units != m.matrices[entry.matrix].units) {
      return damaged(path);
    }
    next = uint64_t{entry.matrix} + 1;
    bytes += entry_bytes(entry.units);
    for (uint32_t first = 0; first < entry.units; first += kChunk) {
      const uint32_t n = std::min(kChunk, entry.units - first);
      if (!read_chunk(fd, counts, n * sizeof(float))) return damaged(path);
      const auto right = [](float value) { return value >= 0 && value <= kMost; };  // false for what is no number
      if (!std::all_of(counts, counts + n, right)) return damaged(path);
      take(static_cast<int32_t>(entry.matrix), first, counts, n);
    }
  }
  return bytes == header.bytes ? Outcome(Nothing{}) : Outcome(damaged(path));
}

// Half of what an earlier file says is kept: called for the matrices in order, so it reads on where it was.
class Earlier {
 public:
  Earlier(int fd, const Header& header) : fd_(fd), left_(header.matrices) {}

  // Whether the next matrix of the file is this one.
  bool begin(uint32_t matrix) {
    while (left_ > 0) {
      if (!have_ && !(have_ = read_chunk(fd_, &entry_, sizeof(entry_)))) return false;
      if (entry_.matrix > matrix) return false;
      have_ = false;
      --left_;
      if (entry_.matrix == matrix) return true;
      if (lseek(fd_, static_cast<off_t>(entry_bytes(entry_.units) - 8 - sizeof(Entry)), SEEK_CUR) < 0) return false;
    }
    return false;
  }
  void add(float* counts, uint32_t n) {
    float old[kChunk];
    if (!read_chunk(fd_, old, n * sizeof(float))) return;
    for (uint32_t i = 0; i < n; ++i) counts[i] = std::min(kMost, counts[i] + 0.5f * old[i]);
  }

 private:
  int fd_;
  uint32_t left_;
  Entry entry_{};
  bool have_ = false;
};

bool write_counts(int fd, const Manifest& m, Window& window, const Header& header, Earlier* earlier) {
  if (!transfer(fd, const_cast<uint8_t*>(bytes_of(&header)), sizeof(header), true)) return false;
  float counts[kChunk];
  for (uint32_t i = 0; i < m.matrices.size(); ++i) {
    if (!window.has(static_cast<int32_t>(i))) continue;
    const Entry entry{i, m.matrices[i].units};
    if (!write_chunk(fd, &entry, sizeof(entry))) return false;
    const bool known = earlier != nullptr && earlier->begin(i);
    for (uint32_t first = 0; first < entry.units; first += kChunk) {
      const uint32_t n = std::min(kChunk, entry.units - first);
      for (uint32_t u = 0; u < n; ++u) counts[u] = window.uses(static_cast<int32_t>(i), first + u);
      if (known) earlier->add(counts, n);
      if (!write_chunk(fd, counts, n * sizeof(float))) return false;
    }
  }
  return true;
}

}  // namespace

Outcome save_counts(const std::string& path, const Manifest& m, Window& window) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.manifest = m.checksum;
  header.bytes = sizeof(Header);
  for (uint32_t i = 0; i < m.matrices.size(); ++i) {
    if (!window.has(static_cast<int32_t>(i))) continue;
    ++header.matrices;
    header.bytes += entry_bytes(m.matrices[i].units);
  }
  header.checksum = header_checksum(header);
  Handle old(open_to_read(path));
  if (old.fd < 0 && errno == ENOENT) {
    return write_whole(path, [&](int fd) { return write_counts(fd, m, window, header, nullptr); });
  }
  Header before{};
  EK_TRY(read_header(path, old.fd, m, before));
  EK_TRY(read_counts(path, old.fd, m, before, [](int32_t, uint32_t, const float*, uint32_t) {}));
  if (lseek(old.fd, sizeof(Header), SEEK_SET) < 0) return damaged(path);
  Earlier earlier(old.fd, before);
  return write_whole(path, [&](int fd) { return write_counts(fd, m, window, header, &earlier); });
}

Outcome load_counts(const std::string& path, const Manifest& m, Window& window) {
  Handle file(open_to_read(path));
  Header header{};
  EK_TRY(read_header(path, file.fd, m, header));
  EK_TRY(read_counts(path, file.fd, m, header, [](int32_t, uint32_t, const float*, uint32_t) {}));
  if (lseek(file.fd, sizeof(Header), SEEK_SET) < 0) return damaged(path);
  return read_counts(path, file.fd, m, header, [&](int32_t matrix, uint32_t first, const float* counts, uint32_t n) {
    if (!window.has(matrix)) return;
    for (uint32_t u = 0; u < n; ++u) window.set_uses(matrix, first + u, kWeight * counts[u]);
  });
}

}  // namespace edgekit
