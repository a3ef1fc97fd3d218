// Drafts what comes next from what followed the same tokens before (prompt lookup decoding, A. Saxena, 2023).
#pragma once

#include <cstdint>

namespace edgekit {

// Writes to out [room] what followed the latest earlier occurrence of the longest suffix of history [count], of at
// most four tokens, that occurs earlier; returns how many tokens that is.
uint32_t lookup_draft(const int32_t* history, uint32_t count, int32_t* out, uint32_t room);

}  // namespace edgekit
