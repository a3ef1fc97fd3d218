// A session's tokens, keys and values in a file, so that a prompt need not be read again.
//
//   header (64 bytes) | chunk: tokens, int32 [position] | chunks: per attention block, keys then values of
//   each head, [position][head_dim]
//
// A chunk is its lane64 checksum, 8 bytes, then its bytes. All numbers little-endian.
#pragma once

#include <string>

#include "format/manifest.h"
#include "model/kv_cache.h"

namespace edgekit {

// Writes `path` beside its place first; it appears when it is whole.
Outcome save_session(const std::string& path, const Manifest& manifest, const int32_t* tokens, uint32_t position,
                     KvCache& cache);

// Fills tokens [at most the cache's context] and the cache; returns the position. Nothing in the file is
// believed before it is checked. On an error the cache holds nothing of use.
Result<uint32_t> restore_session(const std::string& path, const Manifest& manifest, int32_t* tokens, KvCache& cache);

}  // namespace edgekit
