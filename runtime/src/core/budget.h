// The budget: every byte the runtime holds is taken from here first, so the limit cannot be passed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/result.h"

namespace edgekit {

class Budget {
 public:
  explicit Budget(uint64_t limit) : limit_(limit) {}  // 0: no limit
  Budget(const Budget&) = delete;

  Outcome take(uint64_t bytes, const char* what);
  void give(uint64_t bytes) { used_.fetch_sub(bytes); }
  uint64_t used() const { return used_.load(); }
  uint64_t peak() const { return peak_.load(); }
  uint64_t limit() const { return limit_.load(); }
  // What is held already stays; the caller frees it first.
  void set_limit(uint64_t limit) { limit_.store(limit); }

 private:
  std::atomic<uint64_t> limit_;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint64_t> peak_{0};
};

// Owned memory, zeroed, aligned for direct I/O (4096), charged to a budget. Move-only.
class Buffer {
 public:
  static constexpr size_t kAlignment = 4096;

  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  static Result<Buffer> allocate(Budget& budget, uint64_t bytes, const char* what);
  // What `allocate` charges for a request.
  static uint64_t charge(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  float* f32() { return reinterpret_cast<float*>(data_); }
  uint16_t* u16() { return reinterpret_cast<uint16_t*>(data_); }

 private:
  void swap(Buffer& other) {
    std::swap(budget_, other.budget_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  Budget* budget_ = nullptr;
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// Address space reserved once, of which a beginning is committed and can grow and shrink in place.
// Only what is committed is charged. Aligned for direct I/O; new pages are zero. Move-only.
class Region {
 public:
  Region() = default;
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Region();

  static Result<Region> reserve(Budget& budget, uint64_t bytes, const char* what);
  // Commits or gives back, so that the first `bytes` can be used; what stays keeps its content.
  Outcome resize(uint64_t bytes);
  // What `resize` charges.
  static uint64_t charge(uint64_t bytes);

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  void swap(Region& other);
  Budget* budget_ = nullptr;
  const char* what_ = "";
  uint8_t *base_ = nullptr, *data_ = nullptr;
  uint64_t reserved_ = 0, mapped_ = 0, size_ = 0;
};

}  // namespace edgekit
