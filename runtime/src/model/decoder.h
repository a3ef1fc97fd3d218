// One forward pass over the manifest's blocks. Knows no model by name: a block says what it is.
#pragma once

#include <atomic>

#include "model/attention.h"
#include "model/convolution.h"
#include "model/encoder.h"
#include "model/feed_forward.h"
#include "model/layer_input.h"
#include "model/linear_attention.h"
#include "model/mixture.h"

namespace edgekit {

class Decoder {
 public:
  // `sparsity`: share of the neurons that selections by threshold and prompt leave out. `adapter` may be null.
  Decoder(Weights& weights, Workspace& workspace, ThreadPool& pool, const KernelSet& kernels, Activations activations,
          float sparsity, bool look_ahead, const Adapter* adapter);
  Decoder(const Decoder&) = delete;  // its parts refer to each other

  // Evaluates tokens at positions [position, position + count), count <= the workspace's batch.
  // `input` are those tokens, or what stands for their embeddings.
  // `length`: the sequence's length when the whole evaluation is over. `last` [vocab] receives the
  // logits of the last token, `all` [count][vocab] those of every token; either may be null. On an
  // error the cache holds nothing new that a later pass at the same position does not overwrite, but a recurrent
  // cache may not reach that position any more. The last `drafted` tokens may turn out to be no text.
  Outcome forward(const Input& input, uint32_t position, uint32_t length, KvCache& cache, SelectionState& selection,
                  float* last, float* all, const std::atomic<bool>& cancelled, uint32_t drafted = 0);

  // Evaluates the next token of several texts, count <= the workspace's texts, in one pass over the weights; each gets
  // the bits that `forward` gives it alone when all neurons are computed. Errors as for `forward`.
  Outcome forward_texts(const NextToken* texts, uint32_t count);

  // Hidden states, without logits: of tokens at [position, position + count) of one text, as `forward` evaluates them,
  // into `pooled`, which takes what comes before first; or, of an encoder, of all tokens of texts [text_count], with as
  // many `pooled`. The texts of a reranker get their scores.
  Outcome forward_pooled(const int32_t* tokens, uint32_t count, uint32_t position, uint32_t length, KvCache& cache,
                         SelectionState& selection, Pooled& pooled, const std::atomic<bool>& cancelled);
  Outcome forward_segments(const Segment* texts, uint32_t text_count, SelectionState& selection, Pooled* pooled,
                           const std::atomic<bool>& cancelled);

  // What a decoder reads of a picture, out [count / merged patches][rows of the head], by an encoder of pictures.
  Outcome forward_patches(const Patches& patches, SelectionState& selection, float* out,
                          const std::atomic<bool>& cancelled);

  // One feed-forward block on x [count][hidden_size], after its norm; out [count][hidden_size].
  Outcome forward_block(size_t block, const float* x, uint32_t count, SelectionState& selection, float* out);
  // out [count][rows] = W x [count][cols] of one matrix.
  Outcome forward_matrix(int32_t matrix, const float* x, uint32_t count, float* out);

 private:
  bool chooses(uint32_t count, const SelectionState& selection) const;
  Outcome run(const Pass& pass);
  Outcome run_blocks(const Pass& pass);
  Outcome embed_patches(const Patches& patches);
  Outcome merge_patches(uint32_t count, float* out);
  Outcome embed(const Pass& pass);
  Outcome embed_tokens(const Pass& pass);
  Outcome embed_layers(const Pass& pass);
  Outcome add_types(const Pass& pass);
  Outcome embed_row(int32_t matrix, uint32_t row, float* out);
  void begin_block(const Pass& pass, size_t block);
  Outcome compute_block(const Pass& pass, size_t block);
  void add_residual(const Pass& pass, const Block& b);
  Outcome head(uint32_t count, float* last, float* all);
  Outcome pool(const Pass& pass, Pooled* pooled);
  Outcome score(Pooled* pooled, uint32_t count);
  Outcome logits(uint32_t tokens, float* out);
  Outcome logits_of_texts(const Pass& pass);
  Outcome project_head(uint32_t tokens, const float*& x, uint32_t& stride);
  void finish_logits(uint64_t count, float* out) const;

  const Resources resources_;
  Weights& w_;
  Workspace& s_;
  const KernelSet& kernels_;
  const Manifest& m_;
  Norms norms_;
  Linear linear_;
  Attention attention_;
  Convolution convolution_;
  LinearAttention linear_attention_;
  LayerInput layer_input_;
  Neurons neurons_;
  Gathered gathered_;
  Predictor predictor_;
  LookAhead look_ahead_;
  ChosenNeurons chosen_;
  FeedForward feed_forward_;
  Mixture mixture_;
  int32_t read_matrix_ = kNone;  // whose unit `read_unit_` lies in the workspace's unit; kNone: none does
  uint32_t read_unit_ = 0;
  SelectionState nothing_chosen_;  // of passes over several texts
};

}  // namespace edgekit
