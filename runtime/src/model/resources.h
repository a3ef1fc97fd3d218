// What every part of a forward pass works with.
#pragma once

#include "cache/weights.h"
#include "core/threads.h"
#include "format/adapter.h"
#include "kernels/kernels.h"
#include "model/workspace.h"

namespace edgekit {

struct Resources {
  Weights& weights;
  Workspace& workspace;
  ThreadPool& pool;
  const KernelSet& kernels;
  Activations activations = Activations::f32;
  const Adapter* adapter = nullptr;  // null: none
};

}  // namespace edgekit
