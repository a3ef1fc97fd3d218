#include "model/session_file.h"

#include <algorithm>
#include <cstring>

#include "core/checksum.h"
#include "io/whole_file.h"

namespace edgekit {

namespace {

constexpr char kMagic[8] = {'E', 'K', 'S', 'E', 'S', 'S', '0', '3'};

struct Header {
  char magic[8];
  uint64_t manifest;  // checksum of the bundle's manifest.json: of its weights and of all that says how to compute;
                      // with an adapter, of both
  uint64_t bytes;     // of the whole file
  uint32_t position, cache_type, blocks;
  uint32_t earliest;  // position to which the session can go back
  uint32_t checkpoints;
  uint32_t kv_policy, kv_window, kv_sinks;  // what the cache kept
  uint64_t checksum;                        // of everything before it
};
static_assert(sizeof(Header) == 64, "the header is 64 bytes");

uint64_t header_checksum(const Header& h) { return lane64(bytes_of(&h), sizeof(h) - sizeof(h.checksum)); }

// Rows of a block that precede the window from `first` on.
uint32_t sinks_before(const KvCache& cache, size_t block, uint32_t first) {
  return std::min(cache.sinks(block), first);
}

// Bytes of a file with this many tokens; they fit the cache, so nothing overflows.
uint64_t file_bytes(const Manifest& m, uint32_t position, uint32_t earliest, const KvCache& cache, uint32_t checkpoints,
                    uint64_t copy_bytes) {
  uint64_t total = sizeof(Header) + 8 + uint64_t{position} * 4 + checkpoints * (8 + 8 + 8 + copy_bytes);
  for (size_t i = 0; i < m.blocks.size(); ++i) {
    const Block& b = m.blocks[i];
    if (cache.parts(i) == 0) continue;
    const uint32_t first = cache.first_kept(i, earliest);
    const uint64_t rows = uint64_t{position} - first + sinks_before(cache, i, first);
    total += uint64_t{cache.parts(i)} * b.kv_heads * (8 + rows * cache.row_bytes(i));
  }
  return total + (cache.recurrent() ? 8 + cache.states().bytes() : 0);
}

// The keys or values of one head, from a position on.
struct HeadSpan {
  KvCache& cache;
  size_t block;
  KvCache::Part part;
  uint32_t head, sinks, begin, end;  // positions [0, sinks) and [begin, end)
  uint64_t row_bytes;

  uint8_t* row(uint32_t position) const { return cache.row(block, part, head, position); }

  // Row by row, as a ring may begin anywhere and another plan's ring elsewhere.
  uint64_t checksum() const {
    uint64_t sum = 0;
    const auto add = [&](uint32_t p) { sum = sum * 0x9E3779B97F4A7C15 + lane64(row(p), row_bytes); };
    for (uint32_t p = 0; p < sinks; ++p) add(p);
    for (uint32_t p = begin; p < end; ++p) add(p);
    return sum;
  }
  bool transfer_rows(int fd, bool writing) const {
    return transfer_run(fd, 0, sinks, writing) && transfer_run(fd, begin, end, writing);
  }
  // In pieces: one, or more if the ring wraps.
  bool transfer_run(int fd, uint32_t from, uint32_t to, bool writing) const {
    for (uint32_t p = from; p < to;) {
      const uint32_t count = std::min(to - p, cache.rows_together(block, p));
      if (!transfer(fd, row(p), count * row_bytes, writing)) return false;
      p += count;
    }
    return true;
  }
};

// Calls each(HeadSpan) -> bool for what every head of every block keeps.
template <class Each>
bool for_each_head(const Manifest& m, uint32_t position, uint32_t earliest, KvCache& cache, const Each& each) {
  for (size_t i = 0; i < m.blocks.size(); ++i) {
    const Block& b = m.blocks[i];
    const uint32_t parts = cache.parts(i);
    for (uint32_t n = 0; n < parts * b.kv_heads; ++n) {
      const KvCache::Part part = n % parts == 0 ? KvCache::keys : KvCache::values;
      const uint32_t first = cache.first_kept(i, earliest);
      if (!each(HeadSpan{cache, i, part, n / parts, sinks_before(cache, i, first), first, position,
                         cache.row_bytes(i)})) {
        return false;
      }
    }
  }
  return true;
}

bool write_head(int fd, const HeadSpan& span) {
  uint64_t sum = span.checksum();
  return transfer(fd, bytes_of(&sum), 8, true) && span.transfer_rows(fd, true);
}

bool read_head(int fd, const HeadSpan& span) {
  uint64_t sum = 0;
  return transfer(fd, bytes_of(&sum), 8, false) && span.transfer_rows(fd, false) && span.checksum() == sum;
}

bool write_states(int fd, KvCache& cache) {
  return !cache.recurrent() || write_chunk(fd, cache.states().data(), cache.states().bytes());
}
bool read_states(int fd, KvCache& cache) {
  return !cache.recurrent() || read_chunk(fd, cache.states().data(), cache.states().bytes());
}

bool write_checkpoints(int fd, Checkpoints& checkpoints) {
  for (uint32_t i = 0; i < checkpoints.positions().size(); ++i) {
    const uint64_t position = checkpoints.positions()[i];
    if (!write_chunk(fd, &position, 8) || !write_chunk(fd, checkpoints.data(i), checkpoints.bytes())) return false;
  }
  return true;
}

// `count` was checked, positions are not believed.
bool read_checkpoints(int fd, uint32_t count, uint32_t most, Checkpoints& checkpoints) {
  uint64_t last = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint64_t position = 0;
    if (!read_chunk(fd, &position, 8) || position <= last || position > most) return false;
    last = position;
    if (!read_chunk(fd, checkpoints.add(static_cast<uint32_t>(position)), checkpoints.bytes())) return false;
  }
  return true;
}

// Whether every block has room for what a file keeps; the numbers of a forged header may be anything.
bool fits(const Manifest& m, uint32_t position, uint32_t earliest, const KvCache& cache) {
  bool out = earliest <= position;
  for (size_t i = 0; i < m.blocks.size() && out; ++i) {
    out = cache.parts(i) == 0 ||
          position - std::max(cache.first_kept(i, earliest), cache.sinks(i)) <= cache.rows(i) - cache.sinks(i) ||
          position <= cache.rows(i);
  }
  return out;
}

// Reads a header, which is whole but not believed, and the size of the file.
Outcome read_header(const std::string& path, int fd, Header& header, uint64_t& size) {
  EK_TRY(check_opened(path, fd, size));
  if (!transfer(fd, bytes_of(&header), sizeof(header), false) ||
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.checksum != header_checksum(header)) {
    return fail(EDGEKIT_CORRUPT, path + ": is no saved session of this version, or damaged; remove it");
  }
  return Nothing{};
}

}  // namespace

Outcome save_session(const std::string& path, const Manifest& m, uint64_t identity, const int32_t* tokens,
                     uint32_t position, KvCache& cache, Checkpoints& checkpoints) {
  const uint32_t earliest = cache.earliest_copied(position);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.manifest = identity;
  header.checkpoints = static_cast<uint32_t>(checkpoints.positions().size());
  header.bytes = file_bytes(m, position, earliest, cache, header.checkpoints, checkpoints.bytes());
  header.position = position;
  header.cache_type = static_cast<uint32_t>(cache.type());
  header.blocks = static_cast<uint32_t>(m.blocks.size());
  header.earliest = earliest;
  header.kv_policy = cache.policy().kind;
  header.kv_window = cache.policy().window;
  header.kv_sinks = cache.policy().sinks;
  header.checksum = header_checksum(header);
  return write_whole(path, [&](int fd) {
    return transfer(fd, bytes_of(&header), sizeof(header), true) && write_chunk(fd, tokens, uint64_t{position} * 4) &&
           for_each_head(m, position, earliest, cache, [&](const HeadSpan& s) { return write_head(fd, s); }) &&
           write_states(fd, cache) && write_checkpoints(fd, checkpoints);
  });
}

Result<uint32_t> restore_session(const std::string& path, const Manifest& m, uint64_t identity, int32_t* tokens,
                                 KvCache& cache, Checkpoints& checkpoints) {
  Handle file(open_to_read(path));
  Header header{};
  uint64_t size = 0;
  EK_TRY(read_header(path, file.fd, header, size));
  if (header.manifest != identity || header.blocks != m.blocks.size()) {
    return fail(
        EDGEKIT_INVALID_ARGUMENT,
        path + ": was saved with another bundle or adapter, or before this one's manifest.json changed; remove it");
  }
  if (header.cache_type != static_cast<uint32_t>(cache.type())) {
    return fail(EDGEKIT_INVALID_ARGUMENT, path + ": was saved with another type of KV cache");
  }
  if (!(KvPolicy{header.kv_policy, header.kv_sinks, header.kv_window} == cache.policy())) {
    return fail(EDGEKIT_INVALID_ARGUMENT, path + ": was saved with another KV policy");
  }
  if (header.position > cache.context()) {
    return fail(EDGEKIT_CONTEXT_FULL, path + ": has " + std::to_string(header.position) + " tokens, the context " +
                                          std::to_string(cache.context()) + "; open with a larger context");
  }
  const uint32_t position = header.position, earliest = header.earliest;
  const uint32_t copies = header.checkpoints;
  if (!fits(m, position, earliest, cache) || copies > (checkpoints.serve() ? checkpoints.most() : 0) ||
      header.bytes != file_bytes(m, position, earliest, cache, copies, checkpoints.bytes()) || size != header.bytes) {
    return fail(EDGEKIT_CORRUPT, path + ": has another size than it should; it was cut or replaced");
  }
  const bool whole =
      read_chunk(file.fd, tokens, uint64_t{position} * 4) &&
      for_each_head(m, position, earliest, cache, [&](const HeadSpan& s) { return read_head(file.fd, s); }) &&
      read_states(file.fd, cache) && read_checkpoints(file.fd, copies, position, checkpoints);
  if (!whole) checkpoints.forget_behind(0);
  if (!whole) return fail(EDGEKIT_CORRUPT, path + ": is damaged; evaluate the prompt again");
  for (uint32_t i = 0; i < position; ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= m.vocab_size) {
      return fail(EDGEKIT_CORRUPT, path + ": holds a token that the model does not have");
    }
  }
  cache.restored(earliest, position);
  return uint32_t{position};
}

Result<uint32_t> saved_tokens(const std::string& path, int32_t* tokens, uint32_t room) {
  Handle file(open_to_read(path));
  Header header{};
  uint64_t size = 0;
  EK_TRY(read_header(path, file.fd, header, size));
  const uint64_t bytes = uint64_t{header.position} * 4;
  if (size != header.bytes || size < sizeof(header) + 8 + bytes) {
    return fail(EDGEKIT_CORRUPT, path + ": has another size than it should; it was cut or replaced");
  }
  if (room >= header.position && !read_chunk(file.fd, tokens, bytes)) {
    return fail(EDGEKIT_CORRUPT, path + ": is damaged; remove it");
  }
  return uint32_t{header.position};
}

}  // namespace edgekit
