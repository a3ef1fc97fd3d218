#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/budget.h"

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

namespace edgekit {

namespace {
constexpr uint64_t kHugePage = 2 << 20;
constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

uint64_t page_size() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}
}  // namespace

uint64_t Region::charge(uint64_t bytes) { return (bytes + page_size() - 1) / page_size() * page_size(); }

void Region::swap(Region& other) {
  std::swap(budget_, other.budget_);
  std::swap(what_, other.what_);
  std::swap(base_, other.base_);
  std::swap(data_, other.data_);
  std::swap(reserved_, other.reserved_);
  std::swap(mapped_, other.mapped_);
  std::swap(size_, other.size_);
}

Region::~Region() {
  if (base_ == nullptr) return;
  munmap(base_, mapped_);
  budget_->give(size_);
}

Result<Region> Region::reserve(Budget& budget, uint64_t bytes, const char* what) {
  Region out;
  if (bytes == 0) return out;
  if (bytes > (uint64_t{1} << 46)) return fail(EDGEKIT_CORRUPT, std::string("absurd size of ") + what);
  out.reserved_ = charge(bytes);
  out.mapped_ = out.reserved_ + (out.reserved_ >= kHugePage ? kHugePage : 0);
  void* base = mmap(nullptr, out.mapped_, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (base == MAP_FAILED) {
    return fail(EDGEKIT_NO_MEMORY, std::string("the system refused address space for ") + what);
  }
  out.budget_ = &budget;
  out.what_ = what;
  out.base_ = static_cast<uint8_t*>(base);
  const uint64_t at = reinterpret_cast<uintptr_t>(base), align = out.mapped_ > out.reserved_ ? kHugePage : 1;
  out.data_ = out.base_ + (align - at % align) % align;
  return out;
}

Outcome Region::resize(uint64_t bytes) {
  const uint64_t wanted = charge(bytes);
  if (wanted > reserved_) return fail(EDGEKIT_INVALID_ARGUMENT, std::string("no address space for more ") + what_);
  if (wanted > size_) {
    EK_TRY(budget_->take(wanted - size_, what_));
  } else if (wanted < size_) {
    // A fresh mapping over the old pages gives them back at once, on every platform.
    if (mmap(data_ + wanted, size_ - wanted, PROT_READ | PROT_WRITE, kFlags | MAP_FIXED, -1, 0) == MAP_FAILED) {
      return fail(EDGEKIT_NO_MEMORY, std::string("the system did not take back ") + what_);
    }
    budget_->give(size_ - wanted);
  }
  size_ = wanted;
#if defined(MADV_HUGEPAGE)
  // Weights are swept from end to end for every token: large pages spare most of the TLB misses.
  if (size_ >= kHugePage) madvise(data_, size_ / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return Nothing{};
}

}  // namespace edgekit
