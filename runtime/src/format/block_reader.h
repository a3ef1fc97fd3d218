// The blocks of a manifest's model.
#pragma once

#include "format/fields.h"

namespace edgekit {

class BlockReader : protected Fields {
 protected:
  BlockReader(const Json& json, Names& names, Manifest& out) : Fields(json, names, out) {}

  Result<Norm> norm(const JsonNode& object, std::string_view key, uint32_t count, uint32_t head_dim = 0) const;
  // Reads a block and appends it to those of the model.
  Outcome block(const JsonNode& node);

 private:
  Outcome attention(const JsonNode& node, Block& b);
  // The block whose keys and values are read.
  Outcome source(const JsonNode& node, Block& b) const;
  Outcome layer_input(const JsonNode& node, Block& b);
  Outcome convolution(const JsonNode& node, Block& b);
  Outcome linear_attention(const JsonNode& node, Block& b);
  Outcome activation(const JsonNode& node, Block& b);
  Outcome ffn(const JsonNode& node, Block& b);
  Outcome routing(const JsonNode& node, Block& b);
  Outcome selection(const JsonNode& node, Block& b);
};

}  // namespace edgekit
