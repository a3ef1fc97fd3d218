// lane64: the cheap checksum of a unit (docs/format.md, "Checksums"). A Fletcher sum over eight
// interleaved 64-bit lanes, so that it runs at memory speed; any change within one 64-bit word is
// always caught. It guards against damage, not against forgery: files carry a SHA-256 for that.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekit {

uint64_t lane64(const uint8_t* data, size_t size);

}  // namespace edgekit
