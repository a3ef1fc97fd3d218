// Typed memory with a shape, zeroed and charged to a budget: what work buffers and caches are made of.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "core/budget.h"

namespace edgekit {

// Up to three dimensions, the last one contiguous. An array of fewer has ones in front: {1, 1, n}.
struct Shape {
  std::array<uint64_t, 3> sizes{};

  Shape() = default;
  explicit Shape(uint64_t n) : sizes{1, 1, n} {}
  Shape(uint64_t rows, uint64_t columns) : sizes{1, rows, columns} {}
  Shape(uint64_t planes, uint64_t rows, uint64_t columns) : sizes{planes, rows, columns} {}
  // Elements; callers keep each size far below 2^21 or the product checked, as plans do.
  uint64_t count() const { return sizes[0] * sizes[1] * sizes[2]; }
};

// Owned, aligned as Buffer is. Move-only. Indices are checked in builds with EDGEKIT_CHECK_BOUNDS, which
// sanitized builds and debug builds have.
template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>, "an array starts as zero bytes");

 public:
  Array() = default;

  static Result<Array> allocate(Budget& budget, Shape shape, const char* what) {
    Array out;
    EK_ASSIGN(out.buffer_, Buffer::allocate(budget, shape.count() * sizeof(T), what));
    out.shape_ = shape;
    return out;
  }
  // What `allocate` charges for a shape.
  static uint64_t charge(Shape shape) { return Buffer::charge(shape.count() * sizeof(T)); }

  T* data() { return static_cast<T*>(static_cast<void*>(buffer_.data())); }
  const T* data() const { return static_cast<const T*>(static_cast<const void*>(buffer_.data())); }
  uint64_t size() const { return shape_.count(); }
  uint64_t columns() const { return shape_.sizes[2]; }
  bool empty() const { return size() == 0; }

  T& operator[](uint64_t i) { return data()[check(i, size())]; }
  const T& operator[](uint64_t i) const { return data()[check(i, size())]; }
  // Where a row begins, counted through all planes: the last dimension's values.
  T* row(uint64_t i) { return data() + check(i, shape_.sizes[0] * shape_.sizes[1]) * columns(); }
  const T* row(uint64_t i) const { return data() + check(i, shape_.sizes[0] * shape_.sizes[1]) * columns(); }
  // The same within a plane, or the plane's first row.
  T* row(uint64_t plane, uint64_t i) {
    return row(check(plane, shape_.sizes[0]) * shape_.sizes[1] + check(i, shape_.sizes[1]));
  }
  T* plane(uint64_t i) { return data() + check(i, shape_.sizes[0]) * shape_.sizes[1] * columns(); }
  const T* plane(uint64_t i) const { return data() + check(i, shape_.sizes[0]) * shape_.sizes[1] * columns(); }

 private:
  static uint64_t check(uint64_t i, [[maybe_unused]] uint64_t end) {
#if defined(EDGEKIT_CHECK_BOUNDS) || !defined(NDEBUG)
    if (i >= end) std::abort();
#endif
    return i;
  }
  Buffer buffer_;
  Shape shape_;
};

}  // namespace edgekit
