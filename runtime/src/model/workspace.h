// The work buffers of a forward pass; sized once, for the largest block, before weights are loaded.
#pragma once

#include "core/array.h"
#include "format/adapter.h"
#include "format/manifest.h"
#include "kernels/integer.h"

namespace edgekit {

// Rows decoded to floats at a time in passes of several tokens.
constexpr uint32_t kTileRows = 8;
constexpr uint32_t kFewTokens = 8;  // up to which unpacking a row for each four of them is faster than a tile of rows
constexpr uint32_t kFewIntegerTokens = 16;  // the same for activations of 8 bits
constexpr uint32_t kTileNeurons = 16;
// Neurons whose down columns are added up before they meet those of others, and such sums that are under way at once.
constexpr uint32_t kGroupNeurons = 64;
constexpr uint32_t kGroupSums = 32;
constexpr uint32_t kQueries = 12;  // of a head, that an encoder computes side by side

// Widths in values, each a multiple of 32 with zeros past the real width.
struct Widths {
  uint32_t hidden = 0, embed = 0, q = 0, kv = 0, ffn = 0, experts = 0, top_k = 0, rope = 0, rank = 0, state = 0,
           layers = 0;
  uint32_t widest = 0;     // the longest row of any matrix
  uint32_t quantized = 0;  // the longest row that is multiplied with activations of 8 bits
  uint64_t attention = 0;  // work memory of a thread
  bool parallel = false, output_gate = false, down_norm = false;
};
Widths widths_of(const Manifest& manifest, Activations activations);

// Shapes are in the names of `Widths`. Only rows of the pass at hand mean something.
struct Workspace {
  Widths width;
  uint32_t batch = 0;                 // most tokens of a pass
  uint32_t texts = 0;                 // most texts that a pass continues
  Array<float> x;                     // [batch][hidden]: the residual
  Array<float> before;                // [batch][hidden]: the residual that the block before a parallel one read
  Array<float> normed;                // [batch][hidden]: a block's input, after its norm
  Array<float> q, mixed;              // [batch][q]: queries or a gate, and values mixed over tokens; or the channels
                                      // behind and before the convolution of linear attention
  Array<float> k, v;                  // [batch][kv]: keys and values, the inputs of a convolution and a gate, or the
                                      // gates of linear attention
  Array<float> state;                 // [threads][state]: of a head, and its change
  Array<float> layers;                // [batch][layers]: what layers get of each token besides
  Array<float> out;                   // [batch][hidden]: a block's output
  Array<float> h;                     // [batch][ffn]: the values of neurons
  Array<float> unweighted;            // [batch][ffn]: the same before a norm's weights, only with such norms
  Array<float> group_sums;            // [kGroupSums][hidden]: sums of groups of neurons, for one token
  Array<float> open_sum;              // [batch][hidden]: the sum of the group that is not complete yet
  Array<float> gate;                  // [batch]: what scales a block's output, only with output gates
  Array<float> embedded;              // [batch][embed], only with a projection
  Array<float> rope;                  // [ropes][batch][2 * rope]: cosines, then sines
  Array<uint8_t> quantized;           // [batch][quantized_bytes(quantized)]: activations of 8 bits of an input
  Array<float> tiles;                 // [threads][kTileNeurons][widest]: decoded rows
  Array<float> attention;             // [threads][attention]: a tile of keys and values, and the heads that see it
  Array<float> scores;                // [threads][batch * kQueries]: of some queries of an encoder
  Array<float> low_rank;              // [batch][an adapter's most ranks]: its inner values
  Array<float> low_rank_neurons;      // [2][batch][ffn]: what it adds to gates and ups, if it does
  Array<uint8_t> unit;                // [largest unit's bytes], for single rows of streamed matrices
  Array<float> rank;                  // [rank]: a predictor's inner values, only with predictors
  Array<float> ahead_x;               // [hidden]: a later block's input, as far as it is known
  Array<float> ahead_scores;          // [ffn or experts]: what that block's predictor or router says of it
  Array<uint32_t> ahead_rows;         // [ffn or experts]: neurons or experts to read ahead
  Array<uint32_t> rows;               // [ffn]: chosen neurons, ascending
  Array<uint32_t> arrived;            // [ffn]: positions in `rows` whose row has arrived
  Array<const uint8_t*> row_at;       // [ffn]: where the row of each of `rows` lies
  Array<float> router;                // [batch][experts]: the weight of each expert
  Array<uint32_t> expert_order;       // [experts]: best first, for one token
  Array<uint8_t> expert_used;         // [experts]: 1 if a token of the pass chose it
  Array<int32_t> expert_matrices;     // [experts]: of those that are used
  Array<float> picked_x, picked_out;  // [batch][hidden]: input and output of the tokens of one expert

  // Zeros in `mixed` behind `used` values of each token: blocks of other widths have written there.
  void clear_tails(uint32_t tokens, uint32_t used);
};

// `adapter` may be null.
uint64_t workspace_bytes(const Manifest& manifest, Activations activations, uint32_t batch, uint32_t threads,
                         uint64_t unit_bytes, const Adapter* adapter);
// `sessions`: conversations that may be continued together.
Outcome allocate_workspace(Budget& budget, const Manifest& manifest, Activations activations, uint32_t batch,
                           uint32_t sessions, uint32_t threads, uint64_t unit_bytes, const Adapter* adapter,
                           Workspace& out);

}  // namespace edgekit
