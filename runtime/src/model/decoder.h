// One forward pass over the manifest's blocks. Knows no model by name: a block says what it is.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "cache/weights.h"
#include "core/threads.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "model/workspace.h"
#include "select/selection.h"

namespace edgekit {

class Decoder {
 public:
  // `sparsity`: share of the neurons that selections by threshold and prompt leave out.
  Decoder(Weights& weights, Workspace& workspace, ThreadPool& pool, const KernelSet& kernels, float sparsity,
          bool lookahead)
      : w_(weights),
        s_(workspace),
        pool_(pool),
        kernels_(kernels),
        m_(weights.manifest()),
        sparsity_(sparsity),
        lookahead_(lookahead) {}

  // Evaluates tokens at positions [position, position + count), count <= the workspace's batch.
  // `length`: the sequence's length when the whole evaluation is over. `last` [vocab] receives the
  // logits of the last token, `all` [count][vocab] those of every token; either may be null. On an
  // error the cache holds nothing new that a later pass at the same position does not overwrite.
  Outcome forward(const int32_t* tokens, uint32_t count, uint32_t position, uint32_t length, KvCache& cache,
                  Selection& selection, float* last, float* all, const std::atomic<bool>& cancelled);

  // One feed-forward block on x [count][hidden_size], after its norm; out [count][hidden_size].
  Outcome forward_block(size_t index, const float* x, uint32_t count, Selection& selection, float* out);
  // out [count][rows] = W x [count][cols] of one matrix.
  Outcome forward_matrix(int32_t matrix, const float* x, uint32_t count, float* out);

 private:
  Outcome run(const int32_t* tokens, uint32_t position, uint32_t length, KvCache& cache, float* last, float* all,
              const std::atomic<bool>& cancelled);
  Outcome embed(const int32_t* tokens, uint32_t position);
  Outcome attention(size_t index, uint32_t position, KvCache& cache);
  void attend(const Block& b, size_t index, uint32_t position, KvCache& cache);
  template <class T, class Dot, class Axpy>
  void attend_head(const Block& b, uint32_t position, const HeadRows<T>& keys, const HeadRows<T>& values, Dot dot,
                   Axpy axpy, uint32_t token, uint32_t head, float* scores);
  Outcome feed_forward(size_t index);
  Outcome mixture(size_t index);
  void add_residual(const Block& b);
  void normalize_input(const Block& b, const float* x, uint32_t tokens, float* out);
  void normalize(const Norm& norm, const float* x, uint32_t tokens, float* out);
  Outcome head(float* last, float* all);
  Outcome head_logits(const float* x, uint32_t tokens, float* logits);

  // y[t][row] = W x[t] + bias; strides in floats, x padded with zeros.
  Outcome multiply(int32_t matrix, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                   uint32_t ldy);
  void multiply_rows(const Rows& rows, const float* x, uint32_t ldx, uint32_t tokens, const float* bias, float* y,
                     uint32_t ldy);
  // out[t] += down(act(gate x[t]) * up x[t]) for the neurons of one FFN matrix.
  Outcome neurons(const Block& b, int32_t matrix, bool expert, const float* x, uint32_t tokens, float* out);
  void slice(const Block& b, const Rows& rows, uint32_t index, const float* x, float* out);
  void add_slices(float* out);
  void offer_active(int32_t matrix, const Rows& rows, uint32_t tokens);
  // h = act(selector row . x + bias) for all neurons, when the selector is a matrix of its own.
  Outcome activate_selector(const Block& b, const float* x, uint32_t tokens);
  // h[t][neuron] from the parts of `rows`.
  void project_in(const Block& b, const Rows& rows, const float* x, uint32_t tokens);
  float neuron(const Block& b, const Matrix& m, const uint8_t* row, uint32_t r, const float* x) const;

  // One token, chosen neurons only (ffn_selected.cpp).
  bool selective(const Block& b) const;
  bool reads_whole() const;
  Outcome selected(size_t index, const float* x, float* out);
  Outcome gathered(const Block& b, int32_t matrix, uint32_t count, const float* x, float* out,
                   const std::function<Outcome()>& meanwhile);
  Result<uint32_t> choose(size_t index, const float* x);
  Outcome predict(const Block& b, const float* x, float* scores, uint32_t* rows, uint32_t& count);
  uint32_t choose_by_prompt(size_t index);
  void note_usage(size_t index, uint32_t tokens);
  Outcome look_ahead(size_t index);
  Outcome look_ahead_experts(size_t index);
  void accumulate(const Matrix& m, uint32_t part, uint32_t begin, uint32_t end);
  void project_out(const Rows& rows, uint32_t part, uint32_t tokens, float* out);
  void block_sums(const float* x, uint32_t width);

  float* tile(uint32_t thread) { return s_.tiles.f32() + size_t{thread} * kTileNeurons * s_.width.widest; }

  Weights& w_;
  Workspace& s_;
  ThreadPool& pool_;
  const KernelSet& kernels_;
  const Manifest& m_;
  const float sparsity_;
  const bool lookahead_;
  uint32_t tokens_ = 0;  // of the pass at hand
  Selection* selection_ = nullptr;
};

}  // namespace edgekit
