#include "format/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checksum.h"
#include "io/file.h"

namespace edgekit {

namespace {

constexpr char kMagic[8] = {'E', 'K', 'L', 'O', 'R', 'A', '0', '1'};
constexpr uint32_t kMostRank = 4096, kMostEntries = 1u << 16;
constexpr uint64_t kMostAdapterBytes = uint64_t{1} << 36;

struct Header {
  char magic[8];
  uint64_t manifest;  // checksum of the bundle's manifest.json
  uint64_t bytes;     // of the whole file
  uint32_t entries, unused;
  uint64_t data;  // checksum of everything behind the header
  uint64_t unused2[2];
  uint64_t checksum;  // of everything before it
};
static_assert(sizeof(Header) == 64, "the header is 64 bytes");

struct Row {
  uint32_t matrix, part, rank, outputs, inputs, unused;
  uint64_t offset;  // of the values in the file
};
static_assert(sizeof(Row) == 32, "an entry is 32 bytes");

Error damaged(const std::string& path, const char* what) {
  return fail(EDGEKIT_CORRUPT, path + ": is no LoRA adapter of this version, or damaged: " + what + "; make it again");
}

enum class Use { none, projection, neurons };

// What a matrix is to an adapter.
Use use_of(const Manifest& m, int32_t matrix) {
  Use use = matrix == m.head || matrix == m.head_project ? Use::projection : Use::none;
  for (const Block& b : m.blocks) {
    b.for_each_projection([&](int32_t i) { use = i == matrix ? Use::projection : use; });
    if (matrix == b.router || matrix == b.output_gate) use = Use::projection;
    if (b.kind == Block::ffn && (matrix == b.matrices[0] || matrix == b.selector)) use = Use::neurons;
  }
  return matrix == m.embedding ? Use::none : use;
}

}  // namespace

Result<std::unique_ptr<Adapter>> Adapter::open(const std::string& path, const Manifest& manifest, Budget& budget) {
  std::unique_ptr<Adapter> out(new Adapter);
  File file;
  EK_TRY(file.open(path, EDGEKIT_IO_BUFFERED));
  out->size_ = file.size();
  if (out->size_ < sizeof(Header) || out->size_ > kMostAdapterBytes) return damaged(path, "its size");
  EK_ASSIGN(out->data_, Buffer::allocate(budget, out->size_, "a LoRA adapter"));
  EK_TRY(file.read(0, out->size_, out->data_.data()));
  EK_TRY(out->read(path, manifest));
  return out;
}

Outcome Adapter::read(const std::string& path, const Manifest& manifest) {
  Header h;
  std::memcpy(&h, data_.data(), sizeof(h));
  const auto* raw = reinterpret_cast<const uint8_t*>(&h);
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) return damaged(path, "it does not begin as one");
  if (h.checksum != lane64(raw, sizeof(h) - sizeof(h.checksum))) return damaged(path, "the checksum of its header");
  if (h.bytes != size_) return damaged(path, "it was cut or replaced");
  if (h.data != lane64(data_.data() + sizeof(h), size_ - sizeof(h))) return damaged(path, "its checksum");
  if (h.manifest != manifest.checksum) {
    return fail(EDGEKIT_INVALID_ARGUMENT,
                path + ": is an adapter of another bundle, or this one was converted again; make it again");
  }
  if (h.entries > kMostEntries || h.entries * sizeof(Row) > size_ - sizeof(h)) return damaged(path, "its entries");
  for (uint32_t i = 0; i < h.entries; ++i) {
    EK_TRY(add(path, manifest, data_.data() + sizeof(h) + i * sizeof(Row)));
  }
  checksum_ = h.checksum;  // which covers that of the data
  return Nothing{};
}

Outcome Adapter::add(const std::string& path, const Manifest& m, const uint8_t* row) {
  Row r;
  std::memcpy(&r, row, sizeof(r));
  if (r.matrix >= m.matrices.size()) return damaged(path, "a matrix that does not exist");
  const auto number = static_cast<int32_t>(r.matrix);
  const Matrix& matrix = m.matrices[r.matrix];
  const Use use = use_of(m, number);
  if (use == Use::none) {
    return fail(EDGEKIT_UNSUPPORTED,
                path + ": changes matrix '" + matrix.name + "', which adapters cannot: merge it with convert --lora");
  }
  if (r.part >= matrix.part_count || r.rank == 0 || r.rank > kMostRank) return damaged(path, "an entry");
  // The last part of a feed-forward matrix is stored by neuron.
  bool down = false;
  for (const Block& b : m.blocks) {
    down = down || (b.kind == Block::ffn && number == b.matrices[0] && r.part + 1u == matrix.part_count);
  }
  const uint32_t cols = matrix.parts[r.part].cols;
  if (r.inputs != (down ? matrix.rows : cols) || r.outputs != (down ? cols : matrix.rows)) {
    return damaged(path, "the shape of an entry");
  }
  const uint64_t values = uint64_t{r.rank} * (uint64_t{r.inputs} + r.outputs);  // below 2^12 * 2^33
  if (r.offset % 64 != 0 || r.offset > size_ || values * sizeof(float) > size_ - r.offset) {
    return damaged(path, "an entry beyond its end");
  }
  const Entry* last = entries_.empty() ? nullptr : &entries_.back();
  if (last != nullptr && (number < last->matrix || (number == last->matrix && r.part <= last->part))) {
    return damaged(path, "the order of its entries");
  }
  const auto* at = reinterpret_cast<const float*>(data_.data() + r.offset);
  if (!std::all_of(at, at + values, [](float v) { return std::isfinite(v); })) {
    return damaged(path, "numbers that are not finite");
  }
  const LowRank made{r.rank, r.inputs, r.outputs, at, at + uint64_t{r.rank} * r.inputs};
  entries_.push_back({number, r.part, made});
  most_rank_ = std::max(most_rank_, r.rank);
  changes_neurons_ = changes_neurons_ || use == Use::neurons;
  return Nothing{};
}

const LowRank* Adapter::find(int32_t matrix, uint32_t part) const {
  const auto before = [](const Entry& e, const std::pair<int32_t, uint32_t>& key) {
    return e.matrix != key.first ? e.matrix < key.first : e.part < key.second;
  };
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), std::make_pair(matrix, part), before);
  return found != entries_.end() && found->matrix == matrix && found->part == part ? &found->values : nullptr;
}

}  // namespace edgekit
