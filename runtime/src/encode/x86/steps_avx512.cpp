#include "encode/steps.h"

namespace edgekit {
namespace {

#define EK_STEP step_avx512
#include "encode/steps.inc"

}  // namespace edgekit
