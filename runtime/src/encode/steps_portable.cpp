#include "encode/steps.h"
#include "kernels/unroll.h"

namespace edgekit {
namespace {

#define EK_STEP step_portable
#include "encode/steps.inc"

}  // namespace edgekit
