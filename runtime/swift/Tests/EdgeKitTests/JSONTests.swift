// JSON output: what the machine takes, and that every text of a small model is JSON of its shape.
import Foundation
import XCTest

@testable import EdgeKit

final class JSONTests: XCTestCase {
  private func takes(_ shape: JSONShape, _ text: String) -> Bool {
    var machine = JSONMachine(shape)
    return text.utf8.allSatisfy { machine.take($0) } && machine.isWhole
  }

  func testAnyJSONIsTakenAndNothingElse() {
    for text in [
      "null", "true", "-0", "12", "1.5e-7", "0E+1", #""""#, #""a\n\u00e9 é🙂""#, "[]", "{}", "[1, [2,3], {}]",
      #"{"a": {"b": [true,false, null]},"": 1}"#, " 1",
    ] {
      XCTAssertTrue(takes(.any, text), text)
      XCTAssertNotNil(try? JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed), text)
    }
    for text in [
      "", "nul", "tru", "-", "01", "1.", ".5", "+1", "1e", "--1", "\"a", "\"\u{1}\"", #""\x""#, #""\u12g4""#, #""\ud800""#, "[",
      "[1,]", "[,1]", "[1 2]", "{", #"{"a"}"#, #"{"a":}"#, #"{"a":1,}"#, "{a:1}", "1 2", "[1]]", "1,", "  1",
    ] {
      XCTAssertFalse(takes(.any, text), text)
    }
  }

  func testNestingEnds() {
    XCTAssertTrue(takes(.any, String(repeating: "[", count: 64) + String(repeating: "]", count: 64)))
    XCTAssertFalse(takes(.any, String(repeating: "[", count: 200) + String(repeating: "]", count: 200)))
  }

  func testShapesAreKept() throws {
    let person = JSONShape.object([
      .init("name", .string), .init("age", .integer, required: false), .init("role", .choice(["cook", "coo", "é\"\n"])),
      .init("tags", .array(.string, least: 1, most: 2), required: false),
    ])
    for text in [
      #"{"name":"x","role":"coo"}"#, #"{"name": "x", "age": -3, "role": "cook", "tags": ["a", "b"]}"#,
      #"{"name":"","role":"é\"\u000a","tags":["a"]}"#,
    ] { XCTAssertTrue(takes(person, text), text) }
    for text in [
      "{}", #"{"name":"x"}"#, #"{"role":"coo","name":"x"}"#, #"{"name":"x","age":1.5,"role":"coo"}"#,
      #"{"name":"x","role":"co"}"#, #"{"name":"x","role":"coo","tags":[]}"#, #"{"name":"x","role":"coo","tags":["a","b","c"]}"#,
      #"{"name":"x","role":"coo","more":1}"#, #"{"name":"x","age":1,"age":2,"role":"coo"}"#,
    ] { XCTAssertFalse(takes(person, text), text) }
    XCTAssertTrue(takes(.values(["1", "12", "[1, 2]"]), "1"))
    XCTAssertTrue(takes(.values(["1", "12"]), "12"))
    XCTAssertFalse(takes(.values(["1", "12"]), "2"))
    XCTAssertTrue(takes(.array(.values(["1", "12"])), "[1, 12,1]"))
  }

  func testSchemasAreReadOrRefusedByName() throws {
    let shape = try JSONShape(
      schema: """
        {"$schema": "x", "title": "t", "type": "object", "required": ["b", "a"], "additionalProperties": false,
         "properties": {"a": {"type": ["integer", "null"]}, "b": {"enum": ["x", 1, null]}, "d": {"const": true},
                        "c": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}, "minItems": 1}}}
        """)
    XCTAssertTrue(takes(shape, #"{"b": 1, "a": null, "c": ["x", 2.5], "d": true}"#))
    XCTAssertTrue(takes(shape, #"{"b":"x","a":7}"#))
    XCTAssertFalse(takes(shape, #"{"a":7,"b":"x"}"#))
    for (schema, line) in [
      ("{", "is not JSON"), (#"{"type": "string", "pattern": "a"}"#, "'pattern', which is not supported"),
      (#"{"type": "text"}"#, "'text', which JSON does not have"), (#"{"enum": []}"#, "an enum without values"),
      (#"{"type": "object", "properties": {}, "required": ["a"]}"#, "requires 'a' and does not describe it"),
      (#"{"type": "array", "minItems": 2, "maxItems": 1}"#, "at least 2 and at most 1"), ("[]", "is no object"),
      (String(repeating: #"{"type": "array", "items": "#, count: 100) + "true" + String(repeating: "}", count: 100), "deeper than"),
    ] {
      XCTAssertThrowsError(try JSONShape(schema: schema), schema) { XCTAssertTrue("\($0)".contains(line), "\($0)") }
    }
  }

  func testAlternativesThatBeginAlikeAreRefused() throws {
    let vocabulary = try Vocabulary(Pieces(), size: 16)
    for shape in [JSONShape.either([.integer, .number]), .array(.either([.string, .choice(["a"])])), .values(["a"])] {
      XCTAssertThrowsError(try JSONOutput(shape, vocabulary: vocabulary))
    }
  }

  func testEveryTextOfAModelIsOfItsShape() async throws {
    let model = try EdgeModel(bundle: staged("demo.edgekit").path, options: .init(context: 512))
    let (session, tokenizer, stop) = (try EdgeSession(model), try Pieces(), Set<Int32>([2]))
    let vocabulary = try Vocabulary(tokenizer, size: model.vocabularySize, excluded: [0, 1, 2])
    XCTAssertGreaterThan(vocabulary.entries.count, model.vocabularySize / 2)
    let shapes: [JSONShape] = [
      .object([.init("name", .string), .init("age", .integer), .init("kind", .choice(["cat", "dog", "été"]))]),
      .array(.boolean, least: 3, most: 5), .object([.init("a", .number, required: false), .init("b", .array(.any))]),
      .choice(["yes", "no", "yes and no"]), .either([.anyObject, .array(.integer, least: 1)]),
    ]
    var whole = 0
    for (number, shape) in shapes.enumerated() {
      let output = try JSONOutput(shape, vocabulary: vocabulary)
      for seed in 0..<4 {
        var text = ""
        let prompt = try tokenizer.encode("Once upon a time", special: true)
        let settings = seed == 0 ? Sampling.greedy : Sampling(temperature: 1.2, seed: UInt64(seed))
        for try await token in session.generate(prompt, maxTokens: 120, sampling: settings, stop: stop, output: output) {
          text += tokenizer.texts[Int(token)]
        }
        var machine = JSONMachine(shape)
        XCTAssertTrue(text.utf8.allSatisfy { machine.take($0) }, "\(number): \(text)")
        guard machine.isWhole else { continue }  // 120 tokens were not enough
        whole += 1
        XCTAssertNotNil(try? JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed), text)
      }
    }
    XCTAssertGreaterThan(whole, 7)  // free texts within may be long
  }

  func testMasksAreGoneAfterwards() async throws {
    let model = try EdgeModel(bundle: staged("demo.edgekit").path, options: .init(context: 128))
    let (session, tokenizer) = (try EdgeSession(model), try Pieces())
    let output = try JSONOutput(.boolean, vocabulary: Vocabulary(tokenizer, size: model.vocabularySize, excluded: [0, 1, 2]))
    func tokens(_ output: JSONOutput?) async throws -> [Int32] {
      try await session.generate([1, 5, 6], maxTokens: 20, sampling: .greedy, output: output).reduce(into: []) { $0.append($1) }
    }
    let free = try await tokens(nil)
    let bound = try await tokens(output)
    XCTAssertTrue(["true", "false"].contains(try tokenizer.decode(bound).trimmingCharacters(in: .whitespaces)))
    let again = try await tokens(nil)
    XCTAssertEqual(free, again)
  }
}
