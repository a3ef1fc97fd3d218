// What each selection chooses, from the values that it decides by.
#include <vector>

#include "check.h"
#include "select/router.h"
#include "select/select.h"

namespace {
using namespace edgekit;

// One feed-forward block of a few neurons.
Manifest manifest_of(uint32_t neurons) {
  Manifest m;
  Block b;
  b.kind = Block::ffn;
  b.size = neurons;
  m.blocks.push_back(b);
  return m;
}

using Neurons = std::vector<uint32_t>;

Neurons chosen(uint32_t select, const std::vector<float>& values, const float* cuts = nullptr, float sparsity = 0) {
  const Manifest m = manifest_of(static_cast<uint32_t>(values.size()));
  NeuronUsage usage;
  Neurons rows(values.size());
  rows.resize(find_selection(select)->choose({m, 0, values.data(), cuts, sparsity, usage}, rows.data()));
  return rows;
}
}  // namespace

TEST(selections_are_listed_once_under_their_number) {
  for (uint32_t id = EDGEKIT_SELECT_EXACT; id <= EDGEKIT_SELECT_ROUTER; ++id) {
    const Selection* s = find_selection(id);
    CHECK(s != nullptr && s->id == id && s->missing != nullptr && s->offered != nullptr);
    CHECK((s->choose == nullptr) == (id == EDGEKIT_SELECT_ROUTER));
  }
  CHECK(find_selection(EDGEKIT_SELECT_ALL) == nullptr);
  CHECK(find_selection(EDGEKIT_SELECT_AUTO) == nullptr);
}

TEST(selections_offer_what_a_block_has) {
  Block b;
  b.kind = Block::ffn;
  CHECK(!selects(b, EDGEKIT_SELECT_EXACT) && !selects(b, EDGEKIT_SELECT_PREDICTED));
  CHECK(!selects(b, EDGEKIT_SELECT_THRESHOLD) && selects(b, EDGEKIT_SELECT_PROMPT));
  b.selector = 0;
  CHECK(!selects(b, EDGEKIT_SELECT_EXACT));  // SiLU is never zero
  b.activation = Activation::relu;
  b.predict_up = 1;
  b.cuts = 0;
  for (uint32_t id : {EDGEKIT_SELECT_EXACT, EDGEKIT_SELECT_PREDICTED, EDGEKIT_SELECT_THRESHOLD}) CHECK(selects(b, id));
  CHECK(!selects(b, EDGEKIT_SELECT_ALL) && !selects(b, EDGEKIT_SELECT_ROUTER));
}

TEST(selection_exact_takes_all_that_is_not_zero) {
  CHECK((chosen(EDGEKIT_SELECT_EXACT, {0, -2, 0, 1e-30f, 3}) == Neurons{1, 3, 4}));
  CHECK(chosen(EDGEKIT_SELECT_EXACT, {0, -0.0f, 0}).empty());
}

TEST(selection_predicted_takes_positive_scores) {
  CHECK((chosen(EDGEKIT_SELECT_PREDICTED, {0.5f, -2, 0, 1e-30f}) == Neurons{0, 3}));
}

TEST(selection_by_threshold_takes_what_reaches_the_cut) {
  const float cuts[kCuts] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  CHECK((chosen(EDGEKIT_SELECT_THRESHOLD, {0, -2, 1.5f, 3, 2}, cuts, 0.3f) == Neurons{1, 3, 4}));
  CHECK((chosen(EDGEKIT_SELECT_THRESHOLD, {0, -2, 1.5f}, cuts, 0.01f) == Neurons{1, 2}));  // never those of zero
}

TEST(selection_by_prompt_keeps_what_the_prompt_used_most) {
  const Manifest m = manifest_of(4);
  Budget budget(0);
  auto made = NeuronUsage::allocate(budget, 1, 32);
  CHECK(made.ok() && budget.used() == NeuronUsage::charge(1, 32));
  NeuronUsage usage = std::move(made.value());
  const std::vector<float> values = {1, 3, 0, -2, /* next token, stride 4 */ 0, 1, 1, -5};
  usage.record(0, 4, values.data(), 2, 4);
  Neurons rows(4);
  const Choice choice{m, 0, nullptr, nullptr, 0.5f, usage};
  const auto choose = [&] { return find_selection(EDGEKIT_SELECT_PROMPT)->choose(choice, rows.data()); };
  CHECK(choose() == 2 && rows[0] == 1 && rows[1] == 3);
  usage.clear();
  usage.record(0, 4, values.data(), 1, 4);
  const std::vector<float> other = {9, 0, 0, 0};
  usage.record(0, 4, other.data(), 1, 4);
  CHECK(choose() == 2 && rows[0] == 0 && rows[1] == 1);
}

TEST(router_chooses_the_best_experts_of_each_token) {
  Block b;
  b.kind = Block::experts;
  b.matrices = {7, 8, 9, 10};
  b.top_k = 2;
  b.normalize = true;
  std::vector<float> weights = {0.1f, 0.4f, 0.1f, 0.4f};
  std::vector<uint32_t> order(4);
  std::vector<uint8_t> used(4);
  choose_experts(b, nullptr, weights.data(), order.data(), used.data());
  CHECK((weights == std::vector<float>{0, 0.5f, 0, 0.5f}));
  CHECK((used == std::vector<uint8_t>{0, 1, 0, 1}));
  weights = {0.3f, 0.3f, 0.2f, 0.2f};  // of equal ones the first, and what others use stays
  b.normalize = false;
  choose_experts(b, nullptr, weights.data(), order.data(), used.data());
  CHECK((weights == std::vector<float>{0.3f, 0.3f, 0, 0}));
  CHECK((used == std::vector<uint8_t>{1, 1, 0, 1}));
}

TEST(a_bias_of_the_choice_changes_who_is_chosen_and_no_weight) {
  Block b;
  b.kind = Block::experts;
  b.matrices = {7, 8, 9};
  b.top_k = 2;
  b.normalize = true;
  b.normalize_eps = 0.5f;
  b.routed_scale = 2.0f;
  std::vector<float> weights = {0.5f, 0.25f, 0.25f};
  const std::vector<float> bias = {-1, 0, 0.5f};
  std::vector<uint32_t> order(3);
  std::vector<uint8_t> used(3);
  choose_experts(b, bias.data(), weights.data(), order.data(), used.data());
  CHECK((weights == std::vector<float>{0, 0.5f, 0.5f}));
  CHECK((used == std::vector<uint8_t>{0, 1, 1}));
}
