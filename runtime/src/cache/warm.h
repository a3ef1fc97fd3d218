// What the window learned, in a file: how often each unit was used, so that the next run need not learn it again.
//
//   header (64 bytes) | per matrix: checksum, index and units (4 bytes each) | counts, f32, as chunks of at most 1024:
//   checksum, [count]
//
// Checksums have 8 bytes, all numbers are little-endian; matrices ascend. The header ties the file to the whole
// manifest.json, as another layout has other units.
#pragma once

#include <string>

#include "cache/window.h"

namespace edgekit {

// Writes what `window` counts of its matrices. A file of the same bundle that is there already counts half, so that
// runs add up; anything else under the name stays and is an error.
Outcome save_counts(const std::string& path, const Manifest& manifest, Window& window);

// Takes a file's counts; those of matrices that `window` does not hold are left out, and a window that was not started
// takes none. Nothing in the file is believed before it is checked, and after an error no count has changed.
Outcome load_counts(const std::string& path, const Manifest& manifest, Window& window);

}  // namespace edgekit
