// A target under libFuzzer: half of its mutations are libFuzzer's own, half know lines and values.
#include "fuzz/target.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t room);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  edgekit::fuzz::run({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t room, unsigned seed) {
  if (seed % 2 == 0) return LLVMFuzzerMutate(data, size, room);
  return edgekit::fuzz::mutate(data, size, room, seed);
}
