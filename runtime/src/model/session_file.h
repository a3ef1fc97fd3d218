// A session's tokens, keys and values in a file, so that a prompt need not be read again.
//
//   header (64 bytes) | tokens: checksum, int32 [position] | per block and head: keys, values (a convolution: keys)
//   | states of linear attention, if there are: checksum, f32 | per checkpoint: checksum, position (8 bytes), checksum,
//   copy (model/checkpoints.h)
//
// Keys and values are a checksum and the rows [first, position)[head_dim]: first is 0, or with a window the earliest
// position that the session may still look at; before them those sinks of a KV policy that precede it. Checksums have 8
// bytes, all numbers are little-endian. The header ties the file to the whole manifest.json, as another eps or window
// makes other keys.
#pragma once

#include <string>

#include "format/manifest.h"
#include "model/checkpoints.h"

namespace edgekit {

// `identity` is that of the model: of its manifest, and of its adapter if it has one.
// Writes `path` beside its place first; it appears when it is whole.
Outcome save_session(const std::string& path, const Manifest& manifest, uint64_t identity, const int32_t* tokens,
                     uint32_t position, KvCache& cache, Checkpoints& checkpoints);

// Fills tokens [at most the cache's context] the cache and the checkpoints; returns the position. Nothing in the file
// is believed before it is checked. On an error the cache holds nothing of use.
Result<uint32_t> restore_session(const std::string& path, const Manifest& manifest, uint64_t identity, int32_t* tokens,
                                 KvCache& cache, Checkpoints& checkpoints);

// How many tokens a saved session of any bundle has; they themselves if there is room for them. Keys and values are not
// read, so this says nothing of them.
Result<uint32_t> saved_tokens(const std::string& path, int32_t* tokens, uint32_t room);

}  // namespace edgekit
