// Conversations: prompts equal to those of the templates in Python, answers, and what a session keeps of them.
import Foundation
import XCTest

@testable import EdgeKit

final class ChatTests: XCTestCase {
  func testPromptsAreThoseOfTheTemplates() throws {
    struct Case: Decodable {
      let messages: [ChatMessage]
      let prompt: String
    }
    struct Form: Decodable {
      let name: String
      let cases: [Case]
    }
    let all: [Form] = try decoded("forms.json")
    let raw = try JSONSerialization.jsonObject(with: Data(contentsOf: staged("forms.json"))) as! [[String: Any]]
    XCTAssertEqual(all.count, 7)
    for (form, json) in zip(all, raw) {
      let read = try ChatForm(json: JSONSerialization.data(withJSONObject: json["form"]!), name: form.name)
      XCTAssertGreaterThan(form.cases.count, 2)
      for one in form.cases { XCTAssertEqual(try read.prompt(one.messages), one.prompt, form.name) }
      XCTAssertEqual(read.hasTemplate, form.name != "none")
      XCTAssertEqual(read.takesSystem, form.name != "LAST_USER")
    }
  }

  func testRolesThatCannotStandThereAreTold() throws {
    let form = try ChatForm(bundle: staged("chat.edgekit").path)
    for (messages, line) in [
      ([], "has no messages"), ([ChatMessage(.user, "a"), ChatMessage(.user, "b")], "takes no message of the user after"),
      ([ChatMessage(.user, "")], "is empty"), ([ChatMessage(.user, "a"), ChatMessage(.assistant, "b")], "takes no answer"),
    ] {
      XCTAssertThrowsError(try form.prompt(messages)) { XCTAssertTrue("\($0)".contains(line), "\($0)") }
    }
  }

  func testFilesThatAreNoFormsAreErrors() throws {
    XCTAssertThrowsError(try ChatForm(bundle: "/nowhere.edgekit")) { XCTAssertEqual(($0 as? EdgeError)?.kind, .notFound) }
    for text in ["", "[]", "{}", "{\"version\": 1}", "\u{0}"] {
      XCTAssertThrowsError(try ChatForm(json: Data(text.utf8), name: "x")) {
        XCTAssertEqual(($0 as? EdgeError)?.kind, .corrupt)
      }
    }
    let file = try staged("chat.edgekit").appendingPathComponent("tokenizer/edgekit_chat.json")
    let newer = try String(contentsOf: file, encoding: .utf8).replacingOccurrences(of: "\"version\": 1", with: "\"version\": 2")
    XCTAssertThrowsError(try ChatForm(json: Data(newer.utf8), name: "x")) {
      XCTAssertEqual(($0 as? EdgeError)?.kind, .unsupported)
    }
  }

  private func answer(_ session: EdgeSession, _ messages: [ChatMessage], _ form: ChatForm) async throws -> String {
    var out = ""
    let pieces = session.reply(to: messages, form: form, tokenizer: try Pieces(), maxTokens: 24, sampling: .greedy)
    for try await piece in pieces { out += piece }
    return out
  }

  func testAConversationGoesOnFromWhatTheSessionHolds() async throws {
    let path = try staged("chat.edgekit").path
    let (model, form) = (try EdgeModel(bundle: path, options: .init(context: 512, sessions: 2)), try ChatForm(bundle: path))
    let (kept, tokenizer) = (try EdgeSession(model), try Pieces())
    var messages = [ChatMessage(.user, "Once upon a time")]
    for _ in 0..<3 {
      let (before, fresh) = (await kept.tokens(), try EdgeSession(model))
      let (text, alone) = (try await answer(kept, messages, form), try await answer(fresh, messages, form))
      XCTAssertEqual(text, alone)
      XCTAssertFalse(text.isEmpty)
      let prompt = try tokenizer.encode(form.prompt(messages), special: false)
      let held = await kept.tokens()
      XCTAssertEqual(Array(held.prefix(prompt.count)), prompt)
      if messages.count > 1 { XCTAssertGreaterThan(zip(before, prompt).prefix { $0 == $1 }.count, prompt.count / 3) }
      messages += [ChatMessage(.assistant, text), ChatMessage(.user, "And then?")]
    }
  }

  func testASavedSessionGoesOnInAnother() async throws {
    let path = try staged("chat.edgekit").path
    let (model, form) = (try EdgeModel(bundle: path, options: .init(context: 512, sessions: 2)), try ChatForm(bundle: path))
    let (first, second) = (try EdgeSession(model), try EdgeSession(model))
    var messages = [ChatMessage(.user, "Once upon a time")]
    messages.append(ChatMessage(.assistant, try await answer(first, messages, form)))
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).session").path
    try await first.save(to: file)
    try await second.restore(from: file)
    let (held, saved) = (await second.tokens(), await first.tokens())
    XCTAssertEqual(held, saved)
    messages.append(ChatMessage(.user, "And then?"))
    let (text, same) = (try await answer(second, messages, form), try await answer(first, messages, form))
    XCTAssertEqual(text, same)
    do {
      try await second.restore(from: "/nowhere.session")
      XCTFail("a file that is not there was restored")
    } catch let error as EdgeError { XCTAssertEqual(error.kind, .notFound) }
  }

  func testAnswersEndBeforeStopTexts() {
    for pieces in [["Hi", "\nUs", "er: what"], ["Hi\nUser:"], ["H", "i", "\n", "U", "s", "e", "r", ":", "x"]] {
      var ending = StopTexts(["\nUser:", "\nSystem:"])
      let shown = pieces.map { ending.push($0) } + [ending.rest()]
      XCTAssertEqual(shown.joined(), "Hi")
      XCTAssertTrue(ending.isReached)
    }
    var open = StopTexts(["\nUser:"])
    XCTAssertEqual(["a\nUs", "ual 🙂\nU"].map { open.push($0) }.joined() + open.rest(), "a\nUsual 🙂\nU")
    XCTAssertFalse(open.isReached)
  }

  func testVectorsAreThoseOfPython() async throws {
    struct Text: Decodable {
      let tokens: [Int32]
      let vector: [Float]
    }
    let texts: [Text] = try decoded("vectors.json")
    let session = try EdgeSession(EdgeModel(bundle: staged("embedder.edgekit").path))
    let vectors = try await session.embed(texts.map(\.tokens))
    XCTAssertEqual(vectors.count, 2)
    for (text, vector) in zip(texts, vectors) {
      XCTAssertEqual(text.vector.count, vector.count)
      for (a, b) in zip(text.vector, vector) { XCTAssertEqual(a, b, accuracy: 1e-6) }
    }
    for bad in [[], [1_000_000]] as [[Int32]] {
      do {
        _ = try await session.embed([bad])
        XCTFail("\(bad) was embedded")
      } catch let error as EdgeError { XCTAssertEqual(error.kind, .invalidArgument) }
    }
  }
}
