// The `model` member of a manifest: embedding, ropes, blocks, head.
#pragma once

#include "format/fields.h"

namespace edgekit {

Outcome read_model(const Json& json, Names& names, Manifest& out);

}  // namespace edgekit
