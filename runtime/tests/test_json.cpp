#include <string>

#include "check.h"
#include "format/json.h"

using namespace edgekit;

namespace {
bool is_json(const std::string& text) {
  Budget budget(0);
  return Json::parse(text, budget).ok();
}
}  // namespace

TEST(json_reads_what_a_manifest_holds) {
  Budget budget(0);
  const std::string text = "{\"a\": [1, 2.5e-1, -3], \"b\": {\"c\": \"x\"}, \"d\": null, \"e\": true}";
  auto json = Json::parse(text, budget);
  CHECK(json.ok());
  const Json& j = json.value();
  const JsonNode* a = j.find(j.root(), "a");
  CHECK(a != nullptr && a->count == 3);
  CHECK(json_uint(j.at(a->first_child), 10).value() == 1);
  CHECK(json_number(j.at(j.at(a->first_child).next)).value() == 0.25);
  CHECK(!json_uint(j.at(j.at(j.at(a->first_child).next).next), 10).ok());
  CHECK(json_string(*j.find(*j.find(j.root(), "b"), "c")).value() == "x");
  CHECK(j.find(j.root(), "z") == nullptr);
}

TEST(json_refuses_what_is_not_json) {
  for (const char* text : {"", "{", "[1,", "[1 2]", "{\"a\"}", "{\"a\":}", "{a:1}", "[1]x", "\"abc", "tru", "[01a]",
                           "-", "1e", "[,1]", "{\"a\":1,}", "nul", "[\"\x01\"]", "\"\\"}) {
    CHECK(!is_json(text));
  }
  CHECK(!is_json(std::string(1000000, '[')));
  CHECK(!is_json(std::string(40, '[') + std::string(40, ']')));
  CHECK(is_json(std::string(30, '[') + std::string(30, ']')));
}

TEST(json_integers_do_not_wrap) {
  Budget budget(0);
  auto json = Json::parse("[18446744073709551616, 18446744073709551615]", budget);
  const Json& j = json.value();
  const JsonNode& first = j.at(j.root().first_child);
  CHECK(!json_uint(first, UINT64_MAX).ok());
  CHECK(json_uint(j.at(first.next), UINT64_MAX).value() == UINT64_MAX);
  CHECK(!json_uint(j.at(first.next), 5).ok());
}

TEST(json_refuses_keys_that_two_readers_would_read_differently) {
  CHECK(!is_json("{\"a\": 1, \"a\": 2}"));
  CHECK(!is_json("[{\"x\": {\"b\": 1, \"c\": 0, \"b\": 1}}]"));
  CHECK(!is_json("{\"\\u0061\": 1}"));
  CHECK(is_json("{\"a\": {\"a\": 1}, \"b\": {\"a\": 2}}"));
}

TEST(json_refuses_numbers_that_the_standard_does_not_know) {
  for (const char* text : {"01", "-01", "00", "1.", "-1.", ".5", "-.5", "+1", "1.e5", "1e+", "0x1", "1E", "--1"}) {
    CHECK(!is_json(text));
    CHECK(!is_json("[" + std::string(text) + "]"));
  }
  for (const char* text : {"0", "-0", "0.5", "-0.0", "10", "1e05", "1E+2", "0e0", "1.50"}) CHECK(is_json(text));
}

TEST(json_refuses_escapes_that_the_standard_does_not_know) {
  for (const char* text : {"\\x41", "\\'", "\\u12", "\\u12g4", "\\u", "\\0", "\\ "}) {
    CHECK(!is_json('"' + std::string(text) + '"'));
  }
  CHECK(is_json("\"\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u00e9 \\uD83D\\uDE00\""));
}

TEST(json_refuses_text_that_is_not_utf8) {
  const std::string bad[] = {
      "\x80",              // a continuation of nothing
      "\xc3",              // cut short
      "\xc3(",             // not continued
      "\xc0\xaf",          // two bytes for one
      "\xe0\x80\xaf",      // three bytes for one
      "\xed\xa0\x80",      // half of a surrogate pair
      "\xf0\x80\x80\xaf",  // four bytes for one
      "\xf4\x90\x80\x80",  // beyond the last code point
      "\xf8\x88\x80\x80\x80",
      "\xff",
  };
  for (const std::string& text : bad) {
    CHECK(!is_json('"' + text + '"'));
    CHECK(!is_json("{\"" + text + "\": 1}"));
  }
  for (const char* text : {"\xc3\xa9", "\xe2\x82\xac", "\xed\x9f\xbf", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(is_json('"' + std::string(text) + '"'));
    CHECK(is_json("{\"" + std::string(text) + "\": 1}"));
  }
}

TEST(json_numbers_of_many_digits_keep_their_size) {
  Budget budget(0);
  const std::string zeros(400, '0');
  const std::string text = "[1" + zeros + "e-400, 0." + zeros + "5e401, " + std::string(60, '2') + "]";
  auto json = Json::parse(text, budget);
  CHECK(json.ok());
  if (!json.ok()) return;
  const double want[] = {1, 5, 2.0 / 9 * 1e60};
  uint32_t at = json.value().root().first_child;
  for (double value : want) {
    const double got = json_number(json.value().at(at)).value();
    CHECK(got > value * (1 - 1e-12) && got < value * (1 + 1e-12));
    at = json.value().at(at).next;
  }
}
