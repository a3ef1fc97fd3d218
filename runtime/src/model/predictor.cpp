#include "model/predictor.h"

#include <algorithm>

namespace edgekit {

Outcome Predictor::predict(const Block& b, const float* x, float* scores) {
  const uint32_t rank = w_.matrix(b.predict_down).rows;
  float* low = s_.rank.data();
  EK_TRY(linear_.multiply(b.predict_down, x, s_.width.hidden, 1, nullptr, low, s_.width.rank));
  std::fill(low + rank, low + s_.width.rank, 0.0f);
  EK_TRY(linear_.multiply(b.predict_up, low, s_.width.rank, 1, w_.vector(b.predict_bias), scores, s_.width.ffn));
  linear_.prepare(x, s_.width.hidden, 1, s_.width.hidden);  // the product above left those of `low`
  return Nothing{};
}

}  // namespace edgekit
