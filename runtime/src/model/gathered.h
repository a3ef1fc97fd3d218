// Neurons whose rows are brought into memory one by one, for one token. The workspace's rows [count] name them,
// ascending.
#pragma once

#include <algorithm>

#include "model/neurons.h"

namespace edgekit {

class Gathered {
 public:
  Gathered(const Resources& r, Linear& linear, Neurons& neurons)
      : w_(r.weights), s_(r.workspace), pool_(r.pool), linear_(linear), neurons_(neurons) {}

  // out [hidden] += the down columns of these neurons, each weighted with its value for the prepared x
  // [hidden]. `meanwhile() -> Outcome` is called once, while the first rows are being read.
  // `expert`: whose biases count; 0 for dense blocks.
  template <class Meanwhile>
  Outcome add(const Block& b, int32_t matrix, uint32_t count, const float* x, float* out, const Meanwhile& meanwhile,
              uint32_t expert = 0) {
    const Matrix& m = w_.matrix(matrix);
    const uint32_t* rows = s_.rows.data();
    const uint8_t** at = s_.row_at.data();
    neurons_.begin_output(1);
    neurons_.begin_norm(b, 1);
    const auto compute = [&](uint32_t i) { s_.h.data()[rows[i]] = neurons_.value(b, m, at[i], rows[i], x, expert); };
    const auto ready = [&](const uint32_t* list, uint32_t n) { for_each(list, n, compute); };
    const auto done = [&](uint32_t begin, uint32_t end) { neurons_.add_chosen(m, rows, at, begin, end, out); };
    EK_TRY(w_.gather(matrix, rows, count, at, s_.arrived.data(), ready, done, meanwhile));
    neurons_.end_output(1, out);
    neurons_.end_norm(b, 1, out);
    return Nothing{};
  }

  // Computes the selector's rows of these neurons, leaves their activations in h, and keeps in the workspace's
  // rows those that are not zero. Returns how many.
  Result<uint32_t> keep_active(const Block& b, uint32_t count, const float* x);

 private:
  // Calls body(list[i]) for all n, on all threads.
  template <class Body>
  void for_each(const uint32_t* list, uint32_t n, const Body& body) {
    pool_.parallel_for(n, std::max(4u, n / (4 * pool_.size())), [&](uint32_t begin, uint32_t end, uint32_t) {
      for (uint32_t i = begin; i < end; ++i) body(list[i]);
    });
  }

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  Linear& linear_;
  Neurons& neurons_;
};

}  // namespace edgekit
