// Records are read as docs/format.md describes them, and fields that contradict it are refused.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cases.h"
#include "check.h"
#include "core/checksum.h"
#include "core/half.h"
#include "format/manifest.h"
#include "format/tables.h"
#include "kernels/kernels.h"

using namespace edgekit;
using namespace edgekit::test;

namespace {

// The planes of a code of so many bits, low bits first.
std::vector<uint32_t> planes_of(uint32_t bits) {
  switch (bits) {
    case 3: return {2, 1};
    case 5: return {4, 1};
    case 6: return {4, 2};
    default: return {bits};
  }
}

// Packs a block of codes [32] as the format's table of planes says.
void pack(const uint32_t* codes, uint32_t bits, uint8_t* to) {
  uint32_t shift = 0;
  for (uint32_t plane : planes_of(bits)) {
    const uint32_t bytes = 4 * plane;
    for (uint32_t i = 0; i < kBlock; ++i) {
      const uint32_t q = codes[i] >> shift & ((1u << plane) - 1);
      const uint32_t at = plane == 1 ? i / 8 : i % bytes, up = plane == 1 ? i % 8 : plane * (i / bytes);
      to[at] = static_cast<uint8_t>(to[at] | q << up);
    }
    to += bytes;
    shift += plane;
  }
}

uint32_t code_at(uint32_t j, uint32_t bits) { return (j * 37 + j / 7) & ((1u << bits) - 1); }

// A record whose codes are code_at(column).
std::vector<uint8_t> record(const Part& p) {
  std::vector<uint8_t> row(record_bytes(p));
  const uint32_t bits = bits_of(p.codec);
  for (uint32_t b = 0; b < padded_cols(p.cols) / kBlock; ++b) {
    uint32_t codes[kBlock] = {};
    for (uint32_t i = 0; i < kBlock && b * kBlock + i < p.cols; ++i) codes[i] = code_at(b * kBlock + i, bits);
    pack(codes, bits, row.data() + codes_offset(p) + size_t{b} * 4 * bits);
  }
  return row;
}

std::string signed_text(const std::string& body) {
  char hex[17];
  std::snprintf(hex, sizeof(hex), "%016llx",
                static_cast<unsigned long long>(lane64(reinterpret_cast<const uint8_t*>(body.data()), body.size())));
  return std::string("{\"checksum\":\"") + hex + "\",\n" + body;
}

// A model of one matrix [64, 96], which is embedding and head, whose part has these fields.
std::string manifest_with(const std::string& fields, uint32_t lut_count) {
  return signed_text(
      "\"format\": \"edgekit\", \"version\": 1, \"resident\": {\"file\": \"resident.bin\", \"bytes\": 40960}, "
      "\"flash\": {\"file\": \"flash.bin\", \"bytes\": 0}, "
      "\"units\": {\"file\": \"units.bin\", \"count\": 1, \"checksum\": \"0000000000000000\"}, "
      "\"vectors\": {\"bytes\": 4096, \"checksum\": \"0000000000000000\", \"list\": [{\"name\": \"t\", \"dtype\": "
      "\"f16\", \"offset\": 0, \"count\": " +
      std::to_string(lut_count) +
      "}]}, \"matrices\": [{\"name\": \"m\", \"file\": \"resident.bin\", \"offset\": 4096, \"rows\": 64, "
      "\"rows_per_unit\": 64, \"unit_stride\": 32768, \"first_unit\": 0, \"parts\": [{\"name\": \"w\", \"cols\": 96, " +
      fields +
      "}]}], \"model\": {\"vocab_size\": 64, \"hidden_size\": 96, \"max_context\": 8, \"embedding\": {\"matrix\": "
      "\"m\"}, \"head\": {\"matrix\": \"m\"}, \"ropes\": [], \"blocks\": []}}");
}

// The manifest's matrix, or the message of why it is refused.
std::string refusal(const std::string& fields, uint32_t lut_count, Manifest* out = nullptr) {
  Budget budget(0);
  auto parsed = parse_manifest(manifest_with(fields, lut_count), budget);
  if (!parsed.ok()) return parsed.error().message;
  if (out != nullptr) *out = std::move(parsed.value());
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(scales_of_a_byte_are_powers_of_two_to_the_twelfth) {
  const float* scale = scale_table();
  CHECK(scale[0] == 0.0f);
  CHECK(scale[176] == 1.0f);
  CHECK(scale[188] == 2.0f);
  CHECK(scale[164] == 0.5f);
  for (int i = 1; i < 256; ++i) CHECK(scale[i] == static_cast<float>(std::exp2((i - 176) / 12.0)));
}

TEST(scaled_palettes_are_decoded_exactly) {
  for (const KernelSet* set : all_sets()) {
    for (int k = 0; k < kCodecCount; ++k) {
      const uint32_t bits = kCodecBits[k];
      if (kCodecForms[k] != Form::scaled_lookup) continue;
      for (uint32_t cols : {20u, 96u, 172u, 544u}) {
        for (uint32_t group : {32u, 96u, 160u, 1000u}) {  // the last: one scale for the row
          Part p;
          p.codec = static_cast<Codec>(k);
          p.cols = cols;
          p.group_size = group;
          std::vector<uint8_t> row = record(p);
          CHECK(row.size() % 4 == 0);
          for (uint32_t g = 0; g < group_count(p); ++g) row[g] = static_cast<uint8_t>(g * 41 % 256);
          std::vector<uint16_t> lut(1u << bits);
          const auto entry = [](uint32_t i) { return static_cast<float>(static_cast<int>(i * 29 % 255) - 127) / 128; };
          for (uint32_t i = 0; i < lut.size(); ++i) lut[i] = float_to_f16(entry(i));
          std::vector<float> got(padded_cols(cols), 7.0f);
          set->decode[k](p, row.data(), lut.data(), 0, cols, got.data());
          for (uint32_t j = 0; j < cols; ++j) {
            const uint32_t byte = row[j / group];
            const float scale = byte == 0 ? 0.0f : static_cast<float>(std::exp2((static_cast<int>(byte) - 176) / 12.0));
            CHECK(got[j] == scale * entry(code_at(j, bits)));
          }
          for (uint32_t j = cols; j < got.size(); ++j) CHECK(got[j] == 0.0f);
        }
      }
    }
  }
}

TEST(affine_codes_of_every_width_are_decoded_exactly) {
  for (const KernelSet* set : all_sets()) {
    for (int k = 0; k < kCodecCount; ++k) {
      if (kCodecForms[k] != Form::affine) continue;
      for (uint32_t group : {32u, 64u, 128u, 256u}) {
        for (bool symmetric : {true, false}) {
          Part p;
          p.codec = static_cast<Codec>(k);
          p.cols = 544;
          p.group_size = group;
          p.symmetric = symmetric;
          std::vector<uint8_t> row = record(p);
          const uint32_t groups = group_count(p);
          for (uint32_t g = 0; g < groups; ++g) {  // products and sums of these are exact in f32
            const uint16_t scale = float_to_f16(0.25f * static_cast<float>(g + 1));
            const uint16_t bias = float_to_f16(-3.5f + static_cast<float>(g));
            std::memcpy(row.data() + 2 * g, &scale, 2);
            if (!symmetric) std::memcpy(row.data() + 2 * (groups + g), &bias, 2);
          }
          std::vector<float> got(p.cols);
          set->decode[k](p, row.data(), nullptr, 0, p.cols, got.data());
          for (uint32_t j = 0; j < p.cols; ++j) {
            const float scale = 0.25f * static_cast<float>(j / group + 1);
            const float bias = symmetric ? -scale * static_cast<float>(1u << (kCodecBits[k] - 1))
                                         : -3.5f + static_cast<float>(j / group);
            CHECK(got[j] == scale * static_cast<float>(code_at(j, kCodecBits[k])) + bias);
          }
        }
      }
    }
  }
}

TEST(manifests_with_every_codec_are_read) {
  for (int k = 0; k < kCodecCount; ++k) {
    const Form form = kCodecForms[k];
    std::string fields =
        std::string("\"codec\": \"") + kCodecNames[k] + "\", \"bits\": " + std::to_string(kCodecBits[k]);
    if (has_groups(form)) fields += ", \"group_size\": 64";
    if (form == Form::affine) fields += ", \"symmetric\": true";
    if (form == Form::computed) fields += ", \"state_bits\": 13";
    if (has_table(form)) fields += ", \"lut\": \"t\", \"lut_rows\": 64";
    Manifest m;
    CHECK(refusal(fields, 1u << (kCodecBits[k] % 16), &m) == "");
    if (m.matrices.size() == 1) CHECK(m.matrices[0].parts[0].bytes == record_bytes(m.matrices[0].parts[0]));
  }
}

TEST(fields_of_codecs_that_contradict_the_format_are_refused) {
  const std::string palette =
      "\"codec\": \"scaled_palette\", \"bits\": 4, \"lut\": \"t\", \"lut_rows\": 64, \"group_size\": ";
  for (const char* good : {"32", "64", "96", "97", "16777216"}) CHECK(refusal(palette + good, 16) == "");
  for (const char* bad : {"0", "1", "33", "95", "16777217", "-32", "\"64\""}) {
    CHECK(contains(refusal(palette + bad, 16), "group_size"));
  }
  CHECK(contains(refusal(palette + "32", 15), "lut"));
  CHECK(contains(refusal(palette + "32", 32), "lut"));
  CHECK(contains(refusal("\"codec\": \"scaled_palette\", \"bits\": 4, \"group_size\": 32", 16), "lut"));
  CHECK(contains(refusal("\"codec\": \"scaled_palette\", \"bits\": 7, \"group_size\": 32", 16), "7 bits"));
  const std::string affine = "\"codec\": \"affine\", \"bits\": 3, \"symmetric\": true, \"group_size\": ";
  for (const char* good : {"32", "64", "128", "256"}) CHECK(refusal(affine + good, 16) == "");
  for (const char* bad : {"0", "16", "96", "512", "4294967296"})
    CHECK(contains(refusal(affine + bad, 16), "group_size"));
}

TEST(tables_with_entries_that_are_no_128ths_are_refused) {
  Manifest m;
  CHECK(refusal("\"codec\": \"scaled_palette\", \"bits\": 4, \"lut\": \"t\", \"lut_rows\": 64, \"group_size\": 32", 16,
                &m) == "");
  std::vector<uint8_t> vectors(4096);
  const auto check = [&](float last) {
    const uint16_t half = float_to_f16(last);
    std::memcpy(vectors.data() + 30, &half, 2);
    return check_tables(m, vectors.data());
  };
  for (float good : {0.0f, -0.0f, 1 / 128.0f, 127 / 128.0f, -127 / 128.0f, 0.5f}) CHECK(check(good).ok());
  for (float bad : {1.0f, -1.0f, 1 / 256.0f, 0.3f, 2.0f, 65504.0f, HUGE_VALF, std::nanf("")}) {
    const Outcome refused = check(bad);
    CHECK(!refused.ok() && contains(refused.error().message, "'t'"));
  }
}
