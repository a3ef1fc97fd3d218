// What the manifest alone cannot tell of the palettes' tables.
#pragma once

#include "format/manifest.h"

namespace edgekit {

// Every entry of a scaled palette's table is k/128 with an integer k from -127 to 127, so that integer kernels
// compute with exactly the weights that float kernels see. vectors: the vectors segment, [manifest.vectors_bytes].
Outcome check_tables(const Manifest& manifest, const uint8_t* vectors);

}  // namespace edgekit
