#include "encode/steps.h"

namespace edgekit {
namespace {

#define EK_STEP step_avx2
#include "encode/steps.inc"

}  // namespace edgekit
