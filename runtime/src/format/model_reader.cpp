#include "format/model_reader.h"

#include "format/block_reader.h"

namespace edgekit {

namespace {

class ModelReader : BlockReader {
 public:
  ModelReader(const Json& json, Names& names, Manifest& out) : BlockReader(json, names, out) {}
  Outcome run() { return model(json_.root()); }

 private:
  Result<Rope> rope(const JsonNode& node) const {
    Rope r;
    std::string kind;
    double scale;
    EK_ASSIGN(kind, string(node, "kind"));
    EK_ASSIGN(r.dim, size(node, "dim", 2));
    if (r.dim % 2 != 0) return bad("dim", "odd");
    EK_ASSIGN(scale, number(node, "scale", 1.0));
    r.scale = static_cast<float>(scale);
    EK_ASSIGN(r.inv_freq, vector(node, "inv_freq", r.dim / 2));
    if (kind == "dynamic") {
      r.kind = Rope::dynamic;
      EK_ASSIGN(r.switch_length, size(node, "switch_length"));
      EK_ASSIGN(r.base, number(node, "base", 10000.0));
      EK_ASSIGN(r.factor, number(node, "factor", 1.0));
    } else if (kind != "fixed") {
      return fail(EDGEKIT_UNSUPPORTED, "rope kind '" + kind + "' is unknown to this runtime");
    }
    if (has(node, "long_inv_freq")) {
      EK_ASSIGN(r.long_inv_freq, vector(node, "long_inv_freq", r.dim / 2));
      EK_ASSIGN(r.switch_length, size(node, "switch_length"));
    }
    return r;
  }

  Outcome layer_embedding(const JsonNode& embedding) {
    if (!has(embedding, "layers")) return Nothing{};
    const JsonNode* node;
    EK_ASSIGN(node, member(embedding, "layers", JsonType::object));
    LayerEmbedding& e = out_.layers;
    double scale, project_scale, mix;
    EK_ASSIGN(e.count, size(*node, "count"));
    EK_ASSIGN(e.dim, size(*node, "dim"));
    const uint64_t width = uint64_t{e.count} * e.dim;
    if (width > kMaxSize) return bad("dim", "too large");
    EK_ASSIGN(e.table, matrix_ref(*node, "table", out_.vocab_size, static_cast<uint32_t>(width)));
    EK_ASSIGN(e.project, matrix_ref(*node, "project", static_cast<uint32_t>(width), out_.hidden_size));
    EK_ASSIGN(e.norm, norm(*node, "norm", e.dim));
    EK_ASSIGN(scale, number(*node, "scale", 1.0));
    EK_ASSIGN(project_scale, number(*node, "project_scale", 1.0));
    EK_ASSIGN(mix, number(*node, "mix", 1.0));
    e.scale = static_cast<float>(scale);
    e.project_scale = static_cast<float>(project_scale);
    e.mix = static_cast<float>(mix);
    return Nothing{};
  }

  Outcome model(const JsonNode& root) {
    const JsonNode *model, *embedding, *list;
    EK_ASSIGN(model, member(root, "model", JsonType::object));
    EK_ASSIGN(out_.hidden_size, size(*model, "hidden_size"));
    EK_ASSIGN(out_.max_context, size(*model, "max_context"));
    EK_ASSIGN(embedding, member(*model, "embedding", JsonType::object));
    EK_TRY(output(*model));
    if (out_.output == Output::image) {
      EK_TRY(patches(*embedding));
      EK_TRY(image_head(*model));
    } else {
      EK_ASSIGN(out_.vocab_size, size(*model, "vocab_size"));
      EK_TRY(inputs(*embedding));
      EK_TRY(text_head(*model));
    }
    EK_ASSIGN(out_.final_norm, norm(*model, "final_norm", out_.hidden_size));
    EK_ASSIGN(list, member(*model, "ropes", JsonType::array));
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) {
      Rope r;
      EK_ASSIGN(r, rope(json_.at(i)));
      out_.ropes.push_back(r);
    }
    EK_ASSIGN(list, member(*model, "blocks", JsonType::array));
    if (list->count > 4096) return bad("blocks", "too many");
    for (uint32_t i = list->first_child; i != 0; i = json_.at(i).next) EK_TRY(block(json_.at(i)));
    return directions();
  }

  Outcome text_head(const JsonNode& model) {
    if (out_.output == Output::embedding) return Nothing{};
    const JsonNode* head;
    EK_ASSIGN(head, member(model, "head", JsonType::object));
    return out_.writes() ? this->head(*head) : score_head(*head);
  }

  // What the model gives, and how the vector of a text is made.
  Outcome output(const JsonNode& model) {
    if (has(model, "output")) {
      std::string output;
      EK_ASSIGN(output, string(model, "output"));
      static const std::unordered_map<std::string, Output> kOutputs = {
          {"embedding", Output::embedding}, {"score", Output::score}, {"image", Output::image}};
      const auto found = kOutputs.find(output);
      if (found == kOutputs.end()) {
        return fail(EDGEKIT_UNSUPPORTED, "output '" + output + "' is unknown to this runtime");
      }
      out_.output = found->second;
      if (out_.output == Output::image) return Nothing{};
    }
    if (!has(model, "pooling")) return out_.writes() ? Outcome(Nothing{}) : bad("pooling", "missing");
    static const std::unordered_map<std::string, Pooling::Mode> kModes = {
        {"cls", Pooling::cls}, {"mean", Pooling::mean}, {"max", Pooling::max}, {"last", Pooling::last}};
    const JsonNode* node;
    std::string mode;
    EK_ASSIGN(node, member(model, "pooling", JsonType::object));
    EK_ASSIGN(mode, string(*node, "mode"));
    const auto found = kModes.find(mode);
    if (found == kModes.end()) return fail(EDGEKIT_UNSUPPORTED, "pooling '" + mode + "' is unknown to this runtime");
    out_.pooling.mode = found->second;
    EK_ASSIGN(out_.pooling.normalize, boolean(*node, "normalize"));
    EK_ASSIGN(out_.pooling.max_length, size(*node, "max_length"));
    if (out_.pooling.max_length > out_.max_context) return bad("max_length", "more than the context");
    return Nothing{};
  }

  // Tokens see those behind them in all blocks or in none, and a model in which they do writes no text.
  Outcome directions() {
    size_t both = 0, all = 0;
    for (const Block& b : out_.blocks) {
      all += b.feed_forward() ? 0 : 1;
      both += b.kind == Block::attention && !b.causal ? 1 : 0;
    }
    if (both == 0) {
      return out_.output == Output::image ? bad("causal", "true in an encoder of pictures") : Outcome(Nothing{});
    }
    if (both != all) return bad("causal", "false in some of the blocks only");
    if (out_.writes()) return bad("causal", "false in a model that writes text");
    out_.bidirectional = true;
    return Nothing{};
  }

  Outcome inputs(const JsonNode& embedding) {
    const uint32_t hidden = out_.hidden_size;
    double scale;
    EK_ASSIGN(out_.embedding, matrix_ref(embedding, "matrix", out_.vocab_size, 0));
    const uint32_t width = out_.matrices[static_cast<size_t>(out_.embedding)].parts[0].cols;
    EK_ASSIGN(scale, number(embedding, "scale", 1.0));
    out_.embedding_scale = static_cast<float>(scale);
    EK_ASSIGN(out_.embedding_project, matrix_ref(embedding, "project", hidden, width, true));
    if (out_.embedding_project == kNone && width != hidden) return bad("embedding", "of another width");
    EK_ASSIGN(out_.embedding_norm, norm(embedding, "norm", hidden));
    EK_TRY(layer_embedding(embedding));
    EK_ASSIGN(out_.position, matrix_ref(embedding, "position", 0, hidden, true));
    if (out_.position != kNone) {
      EK_ASSIGN(out_.position_offset, size(embedding, "position_offset", 0));
      const uint64_t need = uint64_t{out_.max_context} + out_.position_offset;
      if (out_.matrices[static_cast<size_t>(out_.position)].rows < need) {
        return bad("position", "has fewer rows than the context");
      }
    }
    EK_ASSIGN(out_.token_types, matrix_ref(embedding, "types", 0, hidden, true));
    return Nothing{};
  }

  // What an encoder of pictures gets: patches, and the rows of the table of positions that are added to them.
  Outcome patches(const JsonNode& embedding) {
    EK_ASSIGN(out_.embedding_project, matrix_ref(embedding, "project", out_.hidden_size, 0));
    EK_ASSIGN(out_.embedding_bias, vector(embedding, "bias", out_.hidden_size, true));
    EK_ASSIGN(out_.position, matrix_ref(embedding, "position", 0, out_.hidden_size, true));
    EK_ASSIGN(out_.embedding_norm, norm(embedding, "norm", out_.hidden_size));
    return Nothing{};
  }

  Outcome image_head(const JsonNode& model) {
    const JsonNode *merge, *head;
    Merge& m = out_.merge;
    EK_ASSIGN(merge, member(model, "merge", JsonType::object));
    EK_ASSIGN(head, member(model, "head", JsonType::object));
    EK_ASSIGN(m.patches, size(*merge, "patches"));
    EK_ASSIGN(m.mean, boolean(*merge, "mean"));
    if (m.patches > out_.max_context || uint64_t{m.patches} * out_.hidden_size > kMaxSize) {
      return bad("patches", "too many");
    }
    const uint32_t width = m.width(out_.hidden_size);
    EK_ASSIGN(m.norm, norm(*merge, "norm", width));
    EK_ASSIGN(out_.head_project, matrix_ref(*head, "project", 0, width, true));
    const bool projects = out_.head_project != kNone;
    const uint32_t inner = projects ? out_.matrices[static_cast<size_t>(out_.head_project)].rows : width;
    EK_ASSIGN(out_.head_project_bias, vector(*head, "project_bias", inner, true));
    EK_ASSIGN(out_.head, matrix_ref(*head, "matrix", 0, inner));
    EK_ASSIGN(out_.head_bias, vector(*head, "bias", out_.matrices[static_cast<size_t>(out_.head)].rows, true));
    return head_activation(*head);
  }

  // Of a reranker.
  Outcome score_head(const JsonNode& head) {
    const uint32_t hidden = out_.hidden_size;
    EK_ASSIGN(out_.head, matrix_ref(head, "matrix", 1, hidden));
    EK_ASSIGN(out_.head_bias, vector(head, "bias", 1, true));
    EK_ASSIGN(out_.head_project, matrix_ref(head, "project", hidden, hidden, true));
    EK_ASSIGN(out_.head_project_bias, vector(head, "project_bias", hidden, true));
    EK_ASSIGN(out_.head_norm, norm(head, "norm", hidden));
    return head_activation(head);
  }

  Outcome head_activation(const JsonNode& head) {
    if (!has(head, "activation")) return Nothing{};
    static const std::unordered_map<std::string, ScoreActivation> kActivations = {
        {"tanh", ScoreActivation::tanh}, {"gelu", ScoreActivation::gelu}, {"relu", ScoreActivation::relu}};
    std::string activation;
    EK_ASSIGN(activation, string(head, "activation"));
    const auto found = kActivations.find(activation);
    if (found == kActivations.end()) {
      return fail(EDGEKIT_UNSUPPORTED, "activation '" + activation + "' of a score is unknown to this runtime");
    }
    out_.head_activation = found->second;
    return Nothing{};
  }

  Outcome head(const JsonNode& head) {
    const uint32_t hidden = out_.hidden_size;
    double softcap, logit_scale;
    EK_ASSIGN(out_.head_project, matrix_ref(head, "project", 0, hidden, true));
    const uint32_t inner =
        out_.head_project == kNone ? hidden : out_.matrices[static_cast<size_t>(out_.head_project)].rows;
    EK_ASSIGN(out_.head, matrix_ref(head, "matrix", out_.vocab_size, inner));
    EK_ASSIGN(out_.head_bias, vector(head, "bias", out_.vocab_size, true));
    EK_ASSIGN(softcap, number(head, "softcap", 0.0));
    out_.head_softcap = static_cast<float>(softcap);
    EK_ASSIGN(logit_scale, number(head, "scale", 1.0));
    out_.head_scale = static_cast<float>(logit_scale);
    return Nothing{};
  }
};

}  // namespace

Outcome read_model(const Json& json, Names& names, Manifest& out) { return ModelReader(json, names, out).run(); }

}  // namespace edgekit
