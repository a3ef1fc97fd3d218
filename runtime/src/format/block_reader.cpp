#include "format/block_reader.h"

namespace edgekit {

namespace {
constexpr uint32_t kMaxTaps = 64;    // of a convolution
constexpr uint32_t kMaxHead = 1024;  // values of a head of linear attention, whose state has their square
}  // namespace

Result<Norm> BlockReader::norm(const JsonNode& object, std::string_view key, uint32_t count, uint32_t head_dim) const {
  Norm n;
  if (!has(object, key)) return n;
  const JsonNode* node;
  std::string kind;
  double eps;
  EK_ASSIGN(node, member(object, key, JsonType::object));
  EK_ASSIGN(kind, string(*node, "kind"));
  if (kind != "rms" && kind != "layer") return bad(key, "of an unknown kind");
  n.kind = kind == "rms" ? Norm::rms : Norm::layer;
  EK_ASSIGN(eps, number(*node, "eps", 1e-5));
  n.eps = static_cast<float>(eps);
  if (head_dim != 0) {
    EK_ASSIGN(n.per_head, boolean(*node, "per_head"));
  }
  const uint32_t width = n.per_head ? head_dim : count;
  EK_ASSIGN(n.weight, vector(*node, "weight", width, true));
  EK_ASSIGN(n.bias, vector(*node, "bias", width, true));
  return n;
}

Outcome BlockReader::attention(const JsonNode& node, Block& b) {
  const uint32_t hidden = out_.hidden_size;
  double scale, softcap;
  EK_ASSIGN(b.heads, size(node, "heads"));
  EK_ASSIGN(b.kv_heads, size(node, "kv_heads"));
  EK_ASSIGN(b.head_dim, size(node, "head_dim"));
  const uint64_t width = uint64_t{b.heads} * b.head_dim;
  if (b.heads % b.kv_heads != 0 || width > kMaxSize) return bad("heads", "do not divide");
  const uint32_t q = static_cast<uint32_t>(width), kv = b.kv_heads * b.head_dim;
  EK_ASSIGN(b.window, size(node, "window", 0));
  EK_ASSIGN(scale, number(node, "scale", 1.0));
  EK_ASSIGN(softcap, number(node, "softcap", 0.0));
  b.scale = static_cast<float>(scale);
  b.softcap = static_cast<float>(softcap);
  EK_ASSIGN(b.q, matrix_ref(node, "q", q, hidden));
  EK_TRY(source(node, b));
  EK_ASSIGN(b.k, matrix_ref(node, "k", kv, hidden, b.source != kNone));
  EK_ASSIGN(b.v, matrix_ref(node, "v", kv, hidden, b.source != kNone));
  EK_ASSIGN(b.o, matrix_ref(node, "o", hidden, q));
  EK_ASSIGN(b.q_bias, vector(node, "q_bias", q, true));
  EK_ASSIGN(b.k_bias, vector(node, "k_bias", kv, true));
  EK_ASSIGN(b.v_bias, vector(node, "v_bias", kv, true));
  EK_ASSIGN(b.o_bias, vector(node, "o_bias", hidden, true));
  EK_ASSIGN(b.q_norm, norm(node, "q_norm", q, b.head_dim));
  EK_ASSIGN(b.k_norm, norm(node, "k_norm", kv, b.head_dim));
  EK_ASSIGN(b.v_norm, norm(node, "v_norm", kv, b.head_dim));
  EK_ASSIGN(b.o_norm, norm(node, "o_norm", q));
  EK_ASSIGN(b.sinks, vector(node, "sinks", b.heads, true));
  EK_ASSIGN(b.gate, matrix_ref(node, "gate", q, hidden, true));
  EK_ASSIGN(b.gate_bias, vector(node, "gate_bias", q, true));
  if (has(node, "causal")) {
    EK_ASSIGN(b.causal, boolean(node, "causal"));
  }
  if (has(node, "rope")) {
    uint64_t index;
    EK_ASSIGN(index, integer(node, "rope", kMaxSize));
    if (index >= out_.ropes.size() || out_.ropes[index].dim > b.head_dim) {
      return bad("rope", "does not fit the heads");
    }
    b.rope = static_cast<int32_t>(index);
  }
  return Nothing{};
}

Outcome BlockReader::source(const JsonNode& node, Block& b) const {
  if (!has(node, "source")) return Nothing{};
  uint64_t index;
  EK_ASSIGN(index, integer(node, "source", kMaxSize));
  if (index >= out_.blocks.size()) return bad("source", "is no block before this one");
  const Block& from = out_.blocks[index];
  if (from.kind != Block::attention || from.source != kNone || from.kv_heads != b.kv_heads ||
      from.head_dim != b.head_dim || from.window != b.window) {
    return bad("source", "has no keys and values of this shape");
  }
  b.source = static_cast<int32_t>(index);
  return Nothing{};
}

Outcome BlockReader::layer_input(const JsonNode& node, Block& b) {
  uint64_t index;
  EK_ASSIGN(index, integer(node, "index", kMaxSize));
  if (index >= out_.layers.count) return bad("index", "the embedding has fewer layers");
  b.index = static_cast<uint32_t>(index);
  EK_TRY(activation(node, b));
  EK_ASSIGN(b.gate, matrix_ref(node, "gate", out_.layers.dim, out_.hidden_size));
  EK_ASSIGN(b.o, matrix_ref(node, "o", out_.hidden_size, out_.layers.dim));
  return Nothing{};
}

Outcome BlockReader::convolution(const JsonNode& node, Block& b) {
  const uint32_t hidden = out_.hidden_size;
  b.kv_heads = 1;
  b.head_dim = hidden;
  EK_ASSIGN(b.window, size(node, "taps"));
  if (b.window > kMaxTaps) return bad("taps", "too many");
  EK_ASSIGN(b.gate_in, matrix_ref(node, "gate_in", hidden, hidden));
  EK_ASSIGN(b.gate_out, matrix_ref(node, "gate_out", hidden, hidden));
  EK_ASSIGN(b.value, matrix_ref(node, "value", hidden, hidden));
  EK_ASSIGN(b.o, matrix_ref(node, "o", hidden, hidden));
  EK_ASSIGN(b.kernel, vector(node, "kernel", uint64_t{hidden} * b.window));
  EK_ASSIGN(b.gate_in_bias, vector(node, "gate_in_bias", hidden, true));
  EK_ASSIGN(b.gate_out_bias, vector(node, "gate_out_bias", hidden, true));
  EK_ASSIGN(b.value_bias, vector(node, "value_bias", hidden, true));
  EK_ASSIGN(b.o_bias, vector(node, "o_bias", hidden, true));
  EK_ASSIGN(b.kernel_bias, vector(node, "kernel_bias", hidden, true));
  return Nothing{};
}

Outcome BlockReader::linear_attention(const JsonNode& node, Block& b) {
  const uint32_t hidden = out_.hidden_size;
  EK_ASSIGN(b.kv_heads, size(node, "key_heads"));
  EK_ASSIGN(b.heads, size(node, "value_heads"));
  EK_ASSIGN(b.key_dim, size(node, "key_dim"));
  EK_ASSIGN(b.head_dim, size(node, "value_dim"));
  EK_ASSIGN(b.window, size(node, "taps"));
  if (b.window > kMaxTaps) return bad("taps", "too many");
  if (b.key_dim > kMaxHead || b.head_dim > kMaxHead) return bad("key_dim", "or value_dim: too large");
  const uint64_t wide = uint64_t{b.kv_heads} * b.key_dim, widest = uint64_t{b.heads} * b.head_dim;
  if (b.heads % b.kv_heads != 0 || wide > kMaxSize || widest > kMaxSize) return bad("value_heads", "do not divide");
  const uint32_t keys = static_cast<uint32_t>(wide), values = static_cast<uint32_t>(widest);
  EK_TRY(activation(node, b));
  EK_ASSIGN(b.q, matrix_ref(node, "q", keys, hidden));
  EK_ASSIGN(b.k, matrix_ref(node, "k", keys, hidden));
  EK_ASSIGN(b.v, matrix_ref(node, "v", values, hidden));
  EK_ASSIGN(b.gate, matrix_ref(node, "gate", values, hidden));
  EK_ASSIGN(b.beta, matrix_ref(node, "beta", b.heads, hidden));
  EK_ASSIGN(b.decay, matrix_ref(node, "decay", b.heads, hidden));
  EK_ASSIGN(b.o, matrix_ref(node, "o", hidden, values));
  EK_ASSIGN(b.kernel, vector(node, "kernel", uint64_t{b.channels()} * b.window));
  EK_ASSIGN(b.decay_log, vector(node, "decay_log", b.heads));
  EK_ASSIGN(b.decay_bias, vector(node, "decay_bias", b.heads));
  EK_ASSIGN(b.norm, norm(node, "norm", b.head_dim));
  return Nothing{};
}

Outcome BlockReader::activation(const JsonNode& node, Block& b) {
  static const std::unordered_map<std::string, Activation> kActivations = {{"silu", Activation::silu},
                                                                           {"gelu", Activation::gelu},
                                                                           {"gelu_tanh", Activation::gelu_tanh},
                                                                           {"relu", Activation::relu},
                                                                           {"relu2", Activation::relu2},
                                                                           {"threshold", Activation::threshold},
                                                                           {"shifted_relu", Activation::shifted_relu},
                                                                           {"quick_gelu", Activation::quick_gelu}};
  std::string name;
  EK_ASSIGN(name, string(node, "activation"));
  const auto found = kActivations.find(name);
  if (found == kActivations.end()) {
    return fail(EDGEKIT_UNSUPPORTED, "activation '" + name + "' is unknown to this runtime");
  }
  b.activation = found->second;
  return Nothing{};
}

Outcome BlockReader::ffn(const JsonNode& node, Block& b) {
  double threshold;
  EK_TRY(activation(node, b));
  EK_ASSIGN(threshold, number(node, "threshold", 0.0));
  b.threshold = static_cast<float>(threshold);
  EK_ASSIGN(b.gated, boolean(node, "gated"));
  EK_ASSIGN(b.parallel, boolean(node, "parallel"));
  if (has(node, "up_relu")) {
    EK_ASSIGN(b.up_relu, boolean(node, "up_relu"));
  }
  EK_ASSIGN(b.size, size(node, "size"));
  double limit, up_add;
  EK_ASSIGN(limit, number(node, "limit", 0.0));
  EK_ASSIGN(up_add, number(node, "up_add", 0.0));
  b.limit = static_cast<float>(limit);
  b.up_add = static_cast<float>(up_add);
  if (b.kind == Block::ffn) EK_TRY(selection(node, b));
  const int parts = (b.gated ? 3 : 2) - (b.selector != kNone ? 1 : 0);
  const JsonNode* list;
  EK_ASSIGN(list, member(node, "matrices", JsonType::array));
  if (list->count == 0 || list->count > 4096) return bad("matrices", "must name 1 to 4096");
  for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
    auto name = json_string(json_.at(i));
    if (!name.ok()) return bad("matrices", name.error().message);
    int32_t index;
    EK_ASSIGN(index, matrix_named(name.value(), b.size, out_.hidden_size, parts));
    b.matrices.push_back(index);
  }
  const uint64_t experts = b.matrices.size();
  EK_ASSIGN(b.gate_bias, vector(node, "gate_bias", experts * b.size, true));
  EK_ASSIGN(b.up_bias, vector(node, "up_bias", experts * b.size, true));
  EK_ASSIGN(b.down_bias, vector(node, "down_bias", experts * out_.hidden_size, true));
  EK_ASSIGN(b.down_norm, norm(node, "down_norm", b.size));
  if (b.down_norm.kind != Norm::none) {
    const bool plain = b.down_norm.kind == Norm::rms && b.down_norm.weight != kNone && b.down_norm.bias == kNone;
    if (!plain || !b.gated || b.kind != Block::ffn) return bad("down_norm", "of another kind, or of other blocks");
  }
  if (b.kind == Block::ffn) return b.matrices.size() == 1 ? Outcome(Nothing{}) : bad("matrices", "one");
  EK_ASSIGN(b.router, matrix_ref(node, "router", list->count, out_.hidden_size));
  EK_ASSIGN(b.top_k, size(node, "top_k"));
  EK_ASSIGN(b.normalize, boolean(node, "normalize"));
  EK_TRY(routing(node, b));
  return b.top_k <= list->count ? Outcome(Nothing{}) : bad("top_k", "more than there are experts");
}

Outcome BlockReader::routing(const JsonNode& node, Block& b) {
  double normalize_eps, routed_scale;
  EK_ASSIGN(b.router_bias, vector(node, "router_bias", b.matrices.size(), true));
  EK_ASSIGN(b.choice_bias, vector(node, "choice_bias", b.matrices.size(), true));
  EK_ASSIGN(normalize_eps, number(node, "normalize_eps", 0.0));
  EK_ASSIGN(routed_scale, number(node, "routed_scale", 1.0));
  b.normalize_eps = static_cast<float>(normalize_eps);
  b.routed_scale = static_cast<float>(routed_scale);
  if (!has(node, "scoring")) return Nothing{};
  std::string scoring;
  EK_ASSIGN(scoring, string(node, "scoring"));
  if (scoring != "softmax" && scoring != "sigmoid") {
    return fail(EDGEKIT_UNSUPPORTED, "scoring '" + scoring + "' of experts is unknown to this runtime");
  }
  b.scoring = scoring == "sigmoid" ? Block::sigmoid : Block::softmax;
  return Nothing{};
}

Outcome BlockReader::selection(const JsonNode& node, Block& b) {
  EK_ASSIGN(b.output_gate, matrix_ref(node, "output_gate", 1, out_.hidden_size, true));
  EK_ASSIGN(b.selector, matrix_ref(node, "selector", b.size, out_.hidden_size, true));
  EK_ASSIGN(b.cuts, vector(node, "cuts", kCuts, true));
  if (!has(node, "predictor")) return Nothing{};
  const JsonNode* predictor;
  EK_ASSIGN(predictor, member(node, "predictor", JsonType::object));
  EK_ASSIGN(b.predict_down, matrix_ref(*predictor, "down", 0, out_.hidden_size));
  const uint32_t rank = out_.matrices[static_cast<size_t>(b.predict_down)].rows;
  EK_ASSIGN(b.predict_up, matrix_ref(*predictor, "up", b.size, rank));
  EK_ASSIGN(b.predict_bias, vector(*predictor, "bias", b.size));
  return Nothing{};
}

Outcome BlockReader::block(const JsonNode& node) {
  Block b;
  std::string kind;
  EK_ASSIGN(kind, string(node, "kind"));
  EK_ASSIGN(b.pre_norm, norm(node, "pre_norm", out_.hidden_size));
  EK_ASSIGN(b.post_norm, norm(node, "post_norm", out_.hidden_size));
  EK_ASSIGN(b.out_norm, norm(node, "out_norm", out_.hidden_size));
  if (has(node, "pre_relu")) {
    EK_ASSIGN(b.pre_relu, boolean(node, "pre_relu"));
  }
  EK_ASSIGN(b.out_scale, vector(node, "out_scale", 1, true));
  double residual_scale;
  EK_ASSIGN(residual_scale, number(node, "residual_scale", 1.0));
  b.residual_scale = static_cast<float>(residual_scale);
  if (kind == "attention") {
    EK_TRY(attention(node, b));
  } else if (kind == "convolution") {
    b.kind = Block::convolution;
    EK_TRY(convolution(node, b));
  } else if (kind == "layer_input") {
    b.kind = Block::layer_input;
    EK_TRY(layer_input(node, b));
  } else if (kind == "linear_attention") {
    b.kind = Block::linear_attention;
    EK_TRY(linear_attention(node, b));
  } else if (kind == "ffn" || kind == "experts") {
    b.kind = kind == "ffn" ? Block::ffn : Block::experts;
    EK_TRY(ffn(node, b));
    const bool beside = !out_.blocks.empty() && !out_.blocks.back().parallel;
    if (b.parallel && !beside) return bad("parallel", "without a block before it that is not parallel itself");
  } else {
    return fail(EDGEKIT_UNSUPPORTED, "block kind '" + kind + "' is unknown to this runtime");
  }
  out_.blocks.push_back(std::move(b));
  return Nothing{};
}

}  // namespace edgekit
