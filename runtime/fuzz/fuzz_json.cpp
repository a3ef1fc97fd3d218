// Any text as JSON: every value can be visited and asked for, and the tree is in proportion to the text.
#include "format/json.h"
#include "fuzz/target.h"

namespace edgekit::fuzz {

void run(std::string_view input) {
  Budget budget((input.size() + 2) * sizeof(JsonNode) + 8192);
  auto parsed = Json::parse(input, budget);
  if (!parsed.ok()) {
    require_message(parsed.error());
    require(parsed.error().status != EDGEKIT_OVER_BUDGET, "the tree is in proportion to the text");
    return;
  }
  const Json& json = parsed.value();
  std::string open(1, '\0');
  uint32_t pending[64] = {0};
  size_t depth = 1, visited = 0;
  while (depth > 0) {
    const JsonNode& node = json.at(pending[depth - 1]);
    pending[depth - 1] = node.next;
    if (node.next == 0) --depth;
    require(++visited <= input.size() + 2, "each value is visited once");
    (void)json_uint(node, UINT64_MAX).ok();
    (void)json_number(node).ok();
    (void)json_string(node).ok();
    require(node.type != JsonType::object || json.find(node, node.key) == nullptr || node.count > 0, "members exist");
    if (node.first_child == 0) continue;
    require(depth < 64, "the depth is bounded");
    pending[depth++] = node.first_child;
  }
}

}  // namespace edgekit::fuzz
