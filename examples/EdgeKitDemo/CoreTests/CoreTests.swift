// The app's logic, without its views. Needs EDGEKIT_TEST_BUNDLE.
import EdgeKit
import Foundation
import XCTest

@testable import EdgeKitDemoCore

/// One token for each word of a small list: enough to follow a text.
private struct Words: Tokenizing {
  func encode(_ text: String) -> [Int32] { text.split(separator: " ").map { Int32($0) ?? 5 } }
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
