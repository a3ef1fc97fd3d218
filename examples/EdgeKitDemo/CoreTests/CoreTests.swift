// The app's logic, without its views. Needs EDGEKIT_TEST_BUNDLE.
import EdgeKit
import Foundation
import XCTest

@testable import EdgeKitDemoCore

/// One token for each word of a small list: enough to follow a text.
private struct Words: Tokenizing {
  func encode(_ text: String, special: Bool) -> [Int32] { text.split(separator: " ").map { Int32($0) ?? 5 } }
  func decode(_ tokens: [Int32]) -> String { tokens.map { "\($0) " }.joined() }
}

final class CoreTests: XCTestCase, @unchecked Sendable {
  private func bundle() throws -> String {
    guard let path = ProcessInfo.processInfo.environment["EDGEKIT_TEST_BUNDLE"] else { throw XCTSkip("no bundle") }
    return path
  }

  @MainActor
  private func chat(_ maxTokens: Int) throws -> (Chat, UInt64) {
    let floor = try EdgeModel.plan(bundle: bundle(), options: .init(context: 256)).floor
    var settings = Settings(budget: 3 * floor)
    settings.temperature = 0
    settings.maxTokens = maxTokens
    return (try Chat(bundle: bundle(), tokenizer: Words(), settings: settings, context: 256), floor)
  }

  @MainActor
  func testAnAnswerStreamsIntoTheLastMessage() async throws {
    let (chat, _) = try self.chat(20)
    var changes = 0
    chat.changed = { changes += 1 }
    chat.send("5 6 7")
    XCTAssertEqual(chat.state, .generating)
    chat.send("not now")
    await chat.finished()
    XCTAssertEqual(chat.state, .idle)
    XCTAssertEqual(chat.messages.map(\.author), [.person, .model])
    XCTAssertEqual(chat.messages[1].text.split(separator: " ").count, 20)
    XCTAssertGreaterThan(changes, 20)
  }

  @MainActor
  func testBudgetsAndStopWorkWhileItAnswers() async throws {
    let (chat, floor) = try self.chat(200)
    let calm = try self.chat(200).0
    calm.send("5 6 7")
    await calm.finished()
    chat.send("5 6 7")
    chat.memoryWarning(floor: floor)
    XCTAssertEqual(chat.settings.budget, 2 * floor)
    while chat.state == .generating { await chat.look() }
    XCTAssertGreaterThan(chat.metrics.samples.count, 2, "the charts stood still during the generation")
    await chat.finished()
    XCTAssertEqual(chat.messages[1].text, calm.messages[1].text)
    chat.send("5 6 7")
    chat.stop()
    await chat.finished()
    XCTAssertEqual(chat.state, .idle)
    XCTAssertLessThanOrEqual(chat.messages[3].text.count, chat.messages[1].text.count)
    var impossible = chat.settings
    impossible.budget = 1000
    chat.apply(impossible)
    guard case .failed(let why) = chat.state else { return XCTFail("a budget of 1000 bytes was taken") }
    XCTAssertTrue(why.contains("too small"))
    XCTAssertNotEqual(chat.settings.budget, 1000)
  }

  @MainActor
  func testAPromptThatCannotBeIsToldAndNotFatal() async throws {
    let (chat, _) = try self.chat(4)
    chat.send("1000000")
    await chat.finished()
    guard case .failed = chat.state else { return XCTFail("a token outside the vocabulary was taken") }
    chat.send("5")
    await chat.finished()
    XCTAssertEqual(chat.state, .idle)
  }

  func testAdviceStaysBetweenFloorAndWhatThereIs() throws {
    let plan = try EdgeModel.plan(bundle: bundle())
    XCTAssertEqual(BudgetAdvice(available: 1 << 40, plan: plan).suggested, plan.budget)
    XCTAssertEqual(BudgetAdvice(available: 0, plan: plan).suggested, plan.floor + plan.floor / 16)
  }

  func testMetricsAreDifferencesAndForgetTheOldest() async throws {
    let session = try EdgeSession(EdgeModel(bundle: bundle(), options: .init(context: 128)))
    var metrics = Metrics(keeping: 3)
    for _ in 0..<6 {
      for try await _ in session.generate([5, 6, 7], maxTokens: 9, sampling: .greedy) {}
      metrics.record(await session.statistics())
    }
    XCTAssertEqual(metrics.samples.map(\.id), [2, 3, 4])
    XCTAssertTrue(metrics.samples.allSatisfy { $0.tokensPerSecond > 0 && $0.memory > 0 })
    let count = metrics.samples.count
    metrics.restart()
    metrics.record(await session.statistics())
    XCTAssertEqual(metrics.samples.count, count)
  }
}

/// A letter a token, of those that the demo model's chat bundle need not understand.
private struct Letters: Tokenizing {
  func encode(_ text: String, special: Bool) -> [Int32] { text.utf8.map { 3 + Int32($0) % 200 } }
  func decode(_ tokens: [Int32]) throws -> String { tokens.map { "\($0) " }.joined() }
}

final class ConversationsTests: XCTestCase, @unchecked Sendable {
  private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("conversations-\(UUID())")

  override func tearDown() { try? FileManager.default.removeItem(at: folder) }

  @MainActor
  private func chat() throws -> Chat {
    guard let stage = ProcessInfo.processInfo.environment["EDGEKIT_TEST_STAGE"] else { throw XCTSkip("no stage") }
    var settings = Settings(budget: 64 << 20)
    (settings.temperature, settings.maxTokens, settings.system) = (0, 12, "Be brief.")
    return try Chat(bundle: stage + "/chat.edgekit", tokenizer: Letters(), settings: settings, context: 512, folder: folder)
  }

  @MainActor
  private func say(_ chat: Chat, _ text: String) async {
    chat.send(text)
    await chat.finished()
  }

  @MainActor
  func testConversationsDoNotMixAndGoOnWhereTheyWere() async throws {
    let alone = try chat()
    await say(alone, "a cat")
    await say(alone, "and then")
    let want = alone.messages.map(\.text)
    let chat = try self.chat()
    await say(chat, "a cat")
    let first = chat.current.id
    chat.begin()
    await say(chat, "something else")
    XCTAssertEqual(chat.messages.count, 2)
    chat.open(first)
    await say(chat, "and then")
    XCTAssertEqual(chat.messages.map(\.text), want)
    XCTAssertEqual(chat.state, .idle)
    XCTAssertEqual(chat.conversations.all.map(\.messages.count), [4, 2, 4])
  }

  @MainActor
  func testConversationsAreThereAfterALaunch() async throws {
    var chat = try self.chat()
    await say(chat, "a cat\nwith a hat")
    let (id, said) = (chat.current.id, chat.messages)
    XCTAssertEqual(chat.conversations[id]?.title, "a cat with a hat".components(separatedBy: " with").first)
    chat.rename(id, "Cats")
    chat.begin()
    await say(chat, "dogs")
    try Data("{".utf8).write(to: folder.appendingPathComponent("damaged.json"))
    chat = try self.chat()
    XCTAssertEqual(chat.conversations.unread, ["damaged.json"])
    XCTAssertEqual(chat.conversations.all.map(\.title), ["New conversation", "dogs", "Cats"])
    chat.open(id)
    await chat.finished()
    XCTAssertEqual(chat.messages, said)
    await say(chat, "more")
    XCTAssertEqual(chat.messages.count, 4)
    chat.delete(id)
    await chat.finished()
    XCTAssertNotEqual(chat.current.id, id)
    let left = try FileManager.default.contentsOfDirectory(atPath: folder.path)
    XCTAssertFalse(left.contains { $0.contains("\(id)") }, "\(left)")
  }

  @MainActor
  func testAnAnswerEndsWhenAnotherConversationIsOpened() async throws {
    let chat = try self.chat()
    chat.send("a cat")
    let first = chat.current.id
    chat.begin()
    XCTAssertEqual(chat.state, .idle)
    await say(chat, "a dog")
    XCTAssertEqual(chat.messages.count, 2)
    XCTAssertFalse(chat.messages[1].text.isEmpty)
    let other = try self.chat()
    await say(other, "a dog")
    XCTAssertEqual(chat.messages[1].text, other.messages[1].text)
    chat.delete(first)
    XCTAssertNil(chat.conversations[first])
  }
}
