#include "model/session_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/checksum.h"

namespace edgekit {

namespace {

constexpr char kMagic[8] = {'E', 'K', 'S', 'E', 'S', 'S', '0', '1'};

struct Header {
  char magic[8];
  uint64_t units, vectors;  // checksums of the bundle's weights
  uint32_t position, value_bytes, blocks, reserved;
  uint64_t bytes;  // of the whole file
  uint64_t unused;
  uint64_t checksum;  // of everything before it
};
static_assert(sizeof(Header) == 64, "the header is 64 bytes");

uint64_t header_checksum(const Header& h) {
  return lane64(reinterpret_cast<const uint8_t*>(&h), sizeof(h) - sizeof(h.checksum));
}

uint64_t chunk_bytes(const Block& b, uint32_t position, const KvCache& cache) {
  return uint64_t{position} * b.head_dim * cache.value_bytes();
}

// Bytes of a file with this many tokens; they fit the cache, so nothing overflows.
uint64_t file_bytes(const Manifest& m, uint32_t position, const KvCache& cache) {
  uint64_t total = sizeof(Header) + 8 + uint64_t{position} * 4;
  for (const Block& b : m.blocks) {
    if (b.kind == Block::attention) total += 2 * uint64_t{b.kv_heads} * (8 + chunk_bytes(b, position, cache));
  }
  return total;
}

// A descriptor that closes itself.
struct Handle {
  explicit Handle(int descriptor) : fd(descriptor) {}
  ~Handle() {
    if (fd >= 0) close(fd);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  int fd;
};

Error system_error(const std::string& path, const char* what) {
  return fail(EDGEKIT_IO, path + ": " + what + ": " + std::strerror(errno));
}

bool transfer(int fd, uint8_t* data, uint64_t size, bool writing) {
  while (size > 0) {
    const ssize_t n = writing ? write(fd, data, size) : read(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<uint64_t>(n);
  }
  return true;
}

bool write_chunk(int fd, const uint8_t* data, uint64_t size) {
  uint64_t sum = lane64(data, size);
  return transfer(fd, reinterpret_cast<uint8_t*>(&sum), 8, true) &&
         transfer(fd, const_cast<uint8_t*>(data), size, true);
}

bool read_chunk(int fd, uint8_t* data, uint64_t size) {
  uint64_t sum = 0;
  return transfer(fd, reinterpret_cast<uint8_t*>(&sum), 8, false) && transfer(fd, data, size, false) &&
         lane64(data, size) == sum;
}

// Calls each(data, bytes) -> bool for the keys, then the values, of every head.
template <class Each>
bool for_each_head(const Manifest& m, uint32_t position, KvCache& cache, const Each& each) {
  for (size_t i = 0; i < m.blocks.size(); ++i) {
    const Block& b = m.blocks[i];
    if (b.kind != Block::attention) continue;
    const uint64_t bytes = chunk_bytes(b, position, cache);
    for (uint32_t h = 0; h < b.kv_heads; ++h) {
      if (!each(cache.keys(i, h), bytes) || !each(cache.values(i, h), bytes)) return false;
    }
  }
  return true;
}

}  // namespace

Outcome save_session(const std::string& path, const Manifest& m, const int32_t* tokens, uint32_t position,
                     KvCache& cache) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.units = m.units_checksum;
  header.vectors = m.vectors_checksum;
  header.position = position;
  header.value_bytes = cache.value_bytes();
  header.blocks = static_cast<uint32_t>(m.blocks.size());
  header.bytes = file_bytes(m, position, cache);
  header.checksum = header_checksum(header);
  const std::string partial = path + ".partial";
  {
    Handle file(open(partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
    if (file.fd < 0) return system_error(partial, "cannot be written");
    const bool whole = transfer(file.fd, reinterpret_cast<uint8_t*>(&header), sizeof(header), true) &&
                       write_chunk(file.fd, reinterpret_cast<const uint8_t*>(tokens), uint64_t{position} * 4) &&
                       for_each_head(m, position, cache,
                                     [&](const uint8_t* data, uint64_t n) { return write_chunk(file.fd, data, n); }) &&
                       fsync(file.fd) == 0;
    if (!whole) {
      const Error error = system_error(partial, "cannot be written");
      unlink(partial.c_str());
      return error;
    }
  }
  if (std::rename(partial.c_str(), path.c_str()) == 0) return Nothing{};
  const Error error = system_error(path, "cannot be written");
  unlink(partial.c_str());
  return error;
}

Result<uint32_t> restore_session(const std::string& path, const Manifest& m, int32_t* tokens, KvCache& cache) {
  Handle file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) {
    return fail(EDGEKIT_NOT_FOUND, path + ": cannot be opened: " + std::string(std::strerror(errno)));
  }
  Header header{};
  struct stat told{};
  if (fstat(file.fd, &told) != 0 || !S_ISREG(told.st_mode) ||
      !transfer(file.fd, reinterpret_cast<uint8_t*>(&header), sizeof(header), false) ||
      std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0 || header.checksum != header_checksum(header)) {
    return fail(EDGEKIT_CORRUPT, path + ": is no saved session, or damaged");
  }
  if (header.units != m.units_checksum || header.vectors != m.vectors_checksum || header.blocks != m.blocks.size()) {
    return fail(EDGEKIT_INVALID_ARGUMENT, path + ": was saved with another bundle");
  }
  if (header.value_bytes != cache.value_bytes()) {
    return fail(EDGEKIT_INVALID_ARGUMENT, path + ": was saved with another type of KV cache");
  }
  if (header.position > cache.context()) {
    return fail(EDGEKIT_CONTEXT_FULL, path + ": has " + std::to_string(header.position) + " tokens, the context " +
                                          std::to_string(cache.context()) + "; open with a larger context");
  }
  const uint64_t bytes = file_bytes(m, header.position, cache);
  if (header.bytes != bytes || static_cast<uint64_t>(told.st_size) != bytes) {
    return fail(EDGEKIT_CORRUPT, path + ": has another size than it should; it was cut or replaced");
  }
  const bool whole =
      read_chunk(file.fd, reinterpret_cast<uint8_t*>(tokens), uint64_t{header.position} * 4) &&
      for_each_head(m, header.position, cache, [&](uint8_t* data, uint64_t n) { return read_chunk(file.fd, data, n); });
  if (!whole) return fail(EDGEKIT_CORRUPT, path + ": is damaged; evaluate the prompt again");
  for (uint32_t i = 0; i < header.position; ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= m.vocab_size) {
      return fail(EDGEKIT_CORRUPT, path + ": holds a token that the model does not have");
    }
  }
  return uint32_t{header.position};
}

}  // namespace edgekit
