// What this device can do: reads of a file as the runtime makes them, and kernels on data in memory.
#pragma once

#include <string>

#include "core/result.h"

namespace edgekit {

// Reads pieces of `path` for about test.seconds; fills in what it counted.
Outcome measure_reads(const std::string& path, edgekit_read_test& test);
// Multiplies a matrix that no cache holds for about test.seconds; fills in what it counted.
Outcome measure_kernel(edgekit_kernel_test& test);

}  // namespace edgekit
