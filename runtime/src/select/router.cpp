#include "select/router.h"

#include <algorithm>
#include <cmath>

#include "select/selection.h"

namespace edgekit {

namespace {
bool offered(const Block& b) { return b.kind == Block::experts; }
}  // namespace

void score_experts(const Block& b, float* scores) {
  const uint32_t n = static_cast<uint32_t>(b.matrices.size());
  if (b.scoring == Block::sigmoid) {
    for (uint32_t e = 0; e < n; ++e) scores[e] = 1.0f / (1.0f + std::exp(-scores[e]));
    return;
  }
  const float top = *std::max_element(scores, scores + n);
  float total = 0;
  for (uint32_t e = 0; e < n; ++e) total += scores[e] = std::exp(scores[e] - top);
  for (uint32_t e = 0; e < n; ++e) scores[e] /= total;
}

void choose_experts(const Block& b, const float* bias, float* weights, uint32_t* order, uint8_t* used) {
  const uint32_t n = static_cast<uint32_t>(b.matrices.size());
  for (uint32_t e = 0; e < n; ++e) order[e] = e;
  const auto rank = [&](uint32_t e) { return bias != nullptr ? weights[e] + bias[e] : weights[e]; };
  std::partial_sort(order, order + b.top_k, order + n,
                    [&](uint32_t a, uint32_t c) { return rank(a) > rank(c) || (rank(a) == rank(c) && a < c); });
  float total = b.normalize_eps;
  for (uint32_t i = 0; i < b.top_k; ++i) total += weights[order[i]];
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t e = order[i];
    weights[e] = i >= b.top_k ? 0.0f : (b.normalize ? weights[e] / total : weights[e]) * b.routed_scale;
    if (i < b.top_k) used[e] = 1;
  }
}

const Selection kRouterSelection = {
    EDGEKIT_SELECT_ROUTER,
    Evidence::router_scores,
    false,
    false,
    "this model has no experts to choose between; use another selection",
    offered,
    nullptr,
};

}  // namespace edgekit
