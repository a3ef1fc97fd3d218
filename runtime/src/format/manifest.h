// The manifest as typed values. docs/format.md describes every field; parsing checks every bound,
// so that the rest of the runtime can index without looking again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/budget.h"
#include "core/result.h"
#include "format/codec.h"

namespace edgekit {

constexpr uint32_t kFormatVersion = 1;
constexpr uint32_t kUnitAlignment = 4096;
constexpr uint32_t kCuts = 9;

struct Matrix {
  std::string name;
  uint8_t file = 0;  // index into Manifest::files
  uint8_t part_count = 1;
  Part parts[3];
  uint64_t offset = 0;  // of the first unit in the file
  uint32_t rows = 0;
  uint32_t rows_per_unit = 0;
  uint32_t row_stride = 0;   // bytes
  uint64_t unit_stride = 0;  // bytes, a multiple of 4096
  uint64_t first_unit = 0;   // index of its first checksum in units.bin
  uint32_t units = 0;
  uint64_t bytes() const { return unit_stride * units; }
};

struct Vector {
  std::string name;
  uint64_t offset = 0;  // within the vectors segment
  uint64_t count = 0;
  bool half = false;  // f16 tables; everything else is f32
};

struct Norm {
  enum Kind : uint8_t { none, rms, layer } kind = none;
  bool per_head = false;  // q/k norms: over each head instead of the whole row
  float eps = 0;
  int32_t weight = kNone, bias = kNone;
};

struct Rope {
  enum Kind : uint8_t { fixed, dynamic } kind = fixed;
  uint32_t dim = 0;               // rotated dimensions of each head, even
  float scale = 1;                // multiplies cos and sin
  int32_t inv_freq = kNone;       // f32 [dim / 2]
  int32_t long_inv_freq = kNone;  // used once the sequence is longer than switch_length
  uint32_t switch_length = 0;
  double base = 0, factor = 0;  // dynamic NTK
};

enum class Activation : uint8_t { silu, gelu, gelu_tanh, relu, relu2, threshold, shifted_relu, quick_gelu };

enum class ScoreActivation : uint8_t { none, tanh, gelu, relu };

struct Block {
  enum Kind : uint8_t { attention, convolution, linear_attention, layer_input, ffn, experts } kind = attention;
  bool feed_forward() const { return kind == ffn || kind == experts; }  // else it looks at other tokens
  Norm pre_norm, post_norm, out_norm;
  bool pre_relu = false;      // ReLU after the pre norm
  float residual_scale = 1;   // of what the block adds to the residual
  int32_t out_scale = kNone;  // f32 [1]: of the residual, after the block
  // attention
  int32_t q = kNone, k = kNone, v = kNone, o = kNone;  // matrices
  int32_t q_bias = kNone, k_bias = kNone, v_bias = kNone, o_bias = kNone;
  uint32_t heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  int32_t rope = kNone;
  float scale = 1, softcap = 0;
  Norm q_norm, k_norm, v_norm;
  Norm o_norm;             // of what all heads attended to, before o
  int32_t source = kNone;  // the block before whose keys and values are read; q and o are all it has of its own then
  int32_t sinks = kNone;   // f32 [heads]: scores of a position that takes weight and gives nothing
  int32_t gate = kNone;    // matrix [heads * head_dim, hidden]: scales what each head gives; gate_bias as below
  bool causal = true;      // else a token sees those behind it too, within a window to both sides
  // convolution: of `window` tokens; a token keeps kv_heads * head_dim = hidden_size values, no second part
  int32_t gate_in = kNone, gate_out = kNone, value = kNone;  // matrices [hidden, hidden], and o
  int32_t gate_in_bias = kNone, gate_out_bias = kNone, value_bias = kNone, kernel_bias = kNone;
  int32_t kernel = kNone;  // f32 [hidden][window], the last for the token at hand
  // linear attention: kv_heads heads of queries and keys of key_dim values, heads of values of head_dim, o and gate as
  // above, and a convolution of `window` tokens over the channels of q, k and v, then an activation
  uint32_t key_dim = 0;
  int32_t beta = kNone, decay = kNone;            // matrices [heads, hidden]
  int32_t decay_log = kNone, decay_bias = kNone;  // f32 [heads]
  Norm norm;                                      // over each head of what is read
  uint32_t channels() const { return 2 * kv_heads * key_dim + heads * head_dim; }
  // layer input: o (act(gate x) * input `index` of the token), gate and o as above
  uint32_t index = 0;
  // The matrices of a block that looks at other tokens, or is a layer input, in the order of use.
  template <class Each>
  void for_each_projection(const Each& each) const {
    for (int32_t i : {q, k, v != k ? v : kNone, gate_in, value, gate_out, gate, beta, decay, o}) {
      if (i != kNone) each(i);
    }
  }
  // ffn and experts, and the activation of linear attention
  Activation activation = Activation::silu;
  bool gated = false;
  bool up_relu = false;   // act(gate) * relu(up)
  bool parallel = false;  // reads the residual that the preceding block read
  float threshold = 0;
  float limit = 0, up_add = 0;  // gated: of gate and up before the activation, 0 for none; added to up then
  uint32_t size = 0;            // neurons (of each expert)
  Norm down_norm;               // RMS norm of the neurons' values, before down; gated, ffn only
  std::vector<int32_t> matrices;
  // A matrix of its own for what decides whether a neuron is active: gate rows, or up rows without a
  // gate. matrices[0] then holds the other parts.
  int32_t selector = kNone;
  // Low-rank predictor: neuron i is expected to be active when up[i] . (down x) + bias[i] > 0.
  int32_t predict_down = kNone, predict_up = kNone, predict_bias = kNone;
  int32_t cuts = kNone;  // f32 [kCuts]: |act| below which a tenth, two tenths, ... of the neurons lie
  int32_t gate_bias = kNone, up_bias = kNone, down_bias = kNone;  // of experts [experts][size or hidden]
  int32_t output_gate = kNone;  // matrix [1, hidden]: its sigmoid scales the output; ffn only
  int32_t router = kNone;
  enum Scoring : uint8_t { softmax, sigmoid } scoring = softmax;
  int32_t router_bias = kNone, choice_bias = kNone;  // f32 [experts]: of scores; of probabilities, for the choice alone
  uint32_t top_k = 0;
  bool normalize = false;
  float normalize_eps = 0, routed_scale = 1;
};

// Inputs of layers: (norm(project_scale * project x)[i] + scale * table[token][i]) * mix for the token's embedding x.
struct LayerEmbedding {
  uint32_t count = 0, dim = 0;             // inputs, and values of each
  int32_t table = kNone, project = kNone;  // matrices [vocab, count * dim] and [count * dim, hidden]
  float scale = 1, project_scale = 1, mix = 1;
  Norm norm;  // over each input
};

// How the hidden states of a text become its vector.
struct Pooling {
  enum Mode : uint8_t { none, cls, mean, max, last } mode = none;
  bool normalize = false;
  uint32_t max_length = 0;  // tokens
};

// How an encoder of pictures makes what a decoder reads of its patches: head (activation (head_project (norm
// (merged)))), where `patches` neighbours in the order of the input are put side by side, or their mean is taken.
struct Merge {
  uint32_t patches = 1;
  bool mean = false;
  Norm norm;
  uint32_t width(uint32_t hidden) const { return mean ? hidden : hidden * patches; }
};

// What a model gives.
enum class Output : uint8_t { logits, embedding, score, image };

struct Manifest {
  Output output = Output::logits;
  bool writes() const { return output == Output::logits; }  // text; others have no logits
  bool bidirectional = false;                               // an encoder: no attention block is causal
  Pooling pooling;
  uint64_t checksum = 0;  // of the manifest's text, so of everything that says how to compute
  uint32_t vocab_size = 0, hidden_size = 0, max_context = 0;
  int32_t embedding = kNone, position = kNone, token_types = kNone, embedding_project = kNone;
  int32_t embedding_bias = kNone;  // of an encoder of pictures, whose embedding_project takes patches
  uint32_t position_offset = 0;
  float embedding_scale = 1;
  Norm embedding_norm, final_norm;
  LayerEmbedding layers;
  int32_t head = kNone, head_bias = kNone, head_project = kNone;
  float head_softcap = 0, head_scale = 1;
  // Of a score, which is head (head_norm (activation (head_project vector + bias))).
  int32_t head_project_bias = kNone;
  ScoreActivation head_activation = ScoreActivation::none;
  Norm head_norm;
  Merge merge;  // of an encoder of pictures
  std::vector<Rope> ropes;
  std::vector<Block> blocks;
  std::vector<Matrix> matrices;
  std::vector<Vector> vectors;
  std::string files[2];  // resident, flash: names inside the bundle
  uint64_t file_bytes[2] = {};
  uint64_t vectors_bytes = 0, vectors_checksum = 0;  // at offset 0 of the resident file
  std::string units_file;
  uint64_t unit_count = 0, units_checksum = 0;
};

Result<Manifest> parse_manifest(std::string_view text, Budget& budget);

}  // namespace edgekit
