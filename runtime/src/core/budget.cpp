#include "core/budget.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace edgekit {

Outcome Budget::take(uint64_t bytes, const char* what) {
  uint64_t before = used_.load();
  const uint64_t limit = limit_.load();
  do {
    if (limit != 0 && (bytes > limit || before > limit - bytes)) {
      return fail(EDGEKIT_OVER_BUDGET, std::string("the memory budget of ") + std::to_string(limit) +
                                           " bytes has no room for " + std::to_string(bytes) + " bytes of " + what);
    }
  } while (!used_.compare_exchange_weak(before, before + bytes));
  uint64_t now = before + bytes, seen = peak_.load();
  while (now > seen && !peak_.compare_exchange_weak(seen, now)) {
  }
  return Nothing{};
}

Result<Buffer> Buffer::allocate(Budget& budget, uint64_t bytes, const char* what) {
  Buffer out;
  if (bytes == 0) return out;
  if (bytes > (uint64_t{1} << 46)) return fail(EDGEKIT_CORRUPT, std::string("absurd size of ") + what);
  const uint64_t charged = charge(bytes);
  EK_TRY(budget.take(charged, what));
  constexpr uint64_t kHugePage = 2 << 20;
  void* data = nullptr;
  if (posix_memalign(&data, charged >= kHugePage ? kHugePage : kAlignment, charged) != 0) {
    budget.give(charged);
    return fail(EDGEKIT_NO_MEMORY, std::string("the system refused ") + std::to_string(bytes) + " bytes of " + what +
                                       "; free memory or lower the budget");
  }
#if defined(MADV_HUGEPAGE)
  // Large pages spare most of the TLB misses, and the device a list of small ones.
  if (charged >= kHugePage) madvise(data, charged, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, charged);
  out.budget_ = &budget;
  out.data_ = static_cast<uint8_t*>(data);
  out.size_ = charged;
  return out;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  std::free(data_);
  budget_->give(size_);
}

}  // namespace edgekit
