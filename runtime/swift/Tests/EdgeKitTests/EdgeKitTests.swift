// Need EDGEKIT_TEST_BUNDLE, and EDGEKIT_TEST_PROMPT and EDGEKIT_TEST_GOLDEN: token ids that Python generated greedily.
import Foundation
import XCTest

@testable import EdgeKit

private func collect(_ session: EdgeSession, _ prompt: [Int32], _ most: Int) async throws -> [Int32] {
  var out: [Int32] = []
  for try await token in session.generate(prompt, maxTokens: most, sampling: .greedy) { out.append(token) }
  return out
}

final class EdgeKitTests: XCTestCase {
  private func variable(_ name: String) throws -> String {
    guard let value = ProcessInfo.processInfo.environment[name] else { throw XCTSkip("\(name) is not set") }
    return value
  }

  private func bundle() throws -> String { try variable("EDGEKIT_TEST_BUNDLE") }
  private func ids(_ name: String) throws -> [Int32] { try variable(name).split(separator: " ").compactMap { Int32($0) } }

  func testGoldenTokensWithinABudget() async throws {
    let (prompt, golden) = (try ids("EDGEKIT_TEST_PROMPT"), try ids("EDGEKIT_TEST_GOLDEN"))
    let floor = try EdgeModel.plan(bundle: bundle(), options: .init(context: 128)).floor
    for budget in [nil, floor + 100_000, 2 * floor] {
      let model = try EdgeModel(bundle: bundle(), options: .init(budget: budget, context: 128))
      let session = try EdgeSession(model)
      let tokens = try await collect(session, prompt, golden.count)
      XCTAssertEqual(tokens, golden)
      let statistics = await session.statistics()
      XCTAssertLessThanOrEqual(statistics.peakMemory, budget ?? .max)
      XCTAssertEqual(statistics.generatedTokens, UInt64(golden.count - 1))
    }
  }

  func testDraftedTokensAreTheGoldenOnes() async throws {
    let (prompt, golden) = (try ids("EDGEKIT_TEST_PROMPT"), try ids("EDGEKIT_TEST_GOLDEN"))
    let floor = try EdgeModel.plan(bundle: bundle(), options: .init(context: 128, draftTokens: 6)).floor
    let model = try EdgeModel(
      bundle: bundle(), options: .init(budget: floor + 100_000, context: 128, draftTokens: 6))
    let session = try EdgeSession(model)
    for most in Array(1...golden.count) {  // some of them end within accepted drafts
      let tokens = try await collect(session, prompt, most)
      XCTAssertEqual(tokens, Array(golden.prefix(most)))
      let held = await session.tokens()
      XCTAssertEqual(held, prompt + golden.prefix(most - 1))
    }
  }

  func testABudgetThatChangesLeavesTheTextAlone() async throws {
    let (prompt, golden) = (try ids("EDGEKIT_TEST_PROMPT"), try ids("EDGEKIT_TEST_GOLDEN"))
    let floor = try EdgeModel.plan(bundle: bundle(), options: .init(context: 128)).floor
    let model = try EdgeModel(bundle: bundle(), options: .init(budget: 4 * floor, context: 128))
    let pressure = MemoryPressure(model, levels: .init(normal: 4 * floor, floor: 2 * floor))
    let session = try EdgeSession(model)
    var out: [Int32] = []
    for try await token in session.generate(prompt, maxTokens: golden.count, sampling: .greedy) {
      out.append(token)
      try pressure.respond(to: [.warning, .critical, .normal][out.count % 3])
    }
    XCTAssertEqual(out, golden)
  }

  func testStatisticsComeWhileATextIsGenerated() async throws {
    let prompt = try ids("EDGEKIT_TEST_PROMPT")
    let session = try EdgeSession(EdgeModel(bundle: bundle(), options: .init(context: 512)))
    let text = Task { try await collect(session, prompt, 400) }
    var looks: [UInt64] = []
    while (looks.last ?? 0) < 200 { looks.append(await session.statistics().generatedTokens) }
    _ = try await text.value
    XCTAssertLessThan(try XCTUnwrap(looks.last), 399)
    XCTAssertEqual(looks, looks.sorted())
  }

  func testEightSessionsAtOnce() async throws {
    let (prompt, golden) = (try ids("EDGEKIT_TEST_PROMPT"), try ids("EDGEKIT_TEST_GOLDEN"))
    let model = try EdgeModel(bundle: bundle(), options: .init(context: 128, sessions: 8))
    let texts = try await withThrowingTaskGroup(of: [Int32].self) { group in
      for _ in 0..<8 { group.addTask { try await collect(EdgeSession(model), prompt, golden.count) } }
      return try await group.reduce(into: []) { $0.append($1) }
    }
    XCTAssertEqual(texts, Array(repeating: golden, count: 8))
  }

  func testCancellationEndsTheGenerationAndTheSessionGoesOn() async throws {
    let (prompt, golden) = (try ids("EDGEKIT_TEST_PROMPT"), try ids("EDGEKIT_TEST_GOLDEN"))
    let session = try EdgeSession(EdgeModel(bundle: bundle(), options: .init(context: 512)))
    for count in [1, 5] {
      let task = Task {
        var seen = 0
        for try await _ in session.generate(prompt, maxTokens: 500, sampling: .greedy) {
          seen += 1
          if seen == count { return seen }
        }
        return seen
      }
      let seen = try await task.value
      XCTAssertEqual(seen, count)
      let after = try await collect(session, prompt, golden.count)
      XCTAssertEqual(after, golden)
    }
    let endless = Task { try await collect(session, prompt, 500) }
    endless.cancel()
    _ = try? await endless.value
    let again = try await collect(session, prompt, golden.count)
    XCTAssertEqual(again, golden)
  }

  func testErrorsAreTyped() async throws {
    XCTAssertThrowsError(try EdgeModel(bundle: "/nowhere.edgekit")) { XCTAssertEqual(($0 as? EdgeError)?.kind, .notFound) }
    XCTAssertThrowsError(try EdgeModel(bundle: bundle(), options: .init(budget: 1000))) {
      XCTAssertEqual(($0 as? EdgeError)?.kind, .overBudget)
      XCTAssertTrue("\($0)".contains("needs at least"))
    }
    let damaged = FileManager.default.temporaryDirectory.appendingPathComponent("damaged-\(UUID()).edgekit")
    try FileManager.default.copyItem(at: URL(fileURLWithPath: bundle()), to: damaged)
    defer { try? FileManager.default.removeItem(at: damaged) }
    let manifest = damaged.appendingPathComponent("manifest.json")
    var bytes = try Data(contentsOf: manifest)
    bytes[bytes.count / 2] ^= 0x41
    try bytes.write(to: manifest)
    XCTAssertThrowsError(try EdgeModel(bundle: damaged.path)) { XCTAssertEqual(($0 as? EdgeError)?.kind, .corrupt) }
    let session = try EdgeSession(EdgeModel(bundle: bundle(), options: .init(context: 8)))
    do {
      _ = try await collect(session, Array(repeating: 5, count: 9), 1)
      XCTFail("a prompt beyond the context was taken")
    } catch let error as EdgeError {
      XCTAssertEqual(error.kind, .contextFull)
    }
    do {
      _ = try await collect(session, [1_000_000], 1)
      XCTFail("a token outside the vocabulary was taken")
    } catch let error as EdgeError {
      XCTAssertEqual(error.kind, .invalidArgument)
    }
  }

  func testTextComesInWholeCharacters() throws {
    struct Bytes: Tokenizing {  // one token for each byte
      func encode(_ text: String, special: Bool = true) -> [Int32] { text.utf8.map { Int32($0) } }
      func decode(_ tokens: [Int32]) -> String { String(decoding: tokens.map { UInt8($0) }, as: UTF8.self) }
    }
    var stream = TextStream(tokenizer: Bytes(), prompt: Bytes().encode("ab"))
    let text = "né 🙂, e\u{301} and a\u{308}\u{304}, 👩\u{200D}🚀🇮🇸, and a longer end that goes on"
    let pieces = try Bytes().encode(text).map { try stream.push($0) }
    XCTAssertEqual(pieces.joined(), text)
    XCTAssertTrue(pieces.allSatisfy { !$0.contains("\u{FFFD}") })
  }

  func testLevelsLieBetweenFloorAndNormal() {
    let levels = MemoryPressure.Levels(normal: 900, floor: 100)
    XCTAssertEqual(levels, .init(normal: 900, warning: 500, critical: 200))
    XCTAssertEqual(MemoryPressure.Levels(normal: 50, floor: 100).critical, 100)
  }
}

final class FeedForwardTests: XCTestCase {
  func testBlocksAreTheSameUnderAnyBudget() throws {
    guard let path = ProcessInfo.processInfo.environment["EDGEKIT_TEST_BUNDLE"] else { throw XCTSkip("no bundle") }
    let whole = try FeedForward(bundle: path, budget: nil)
    let tight = try FeedForward(bundle: path, budget: 1 << 20)
    let x = (0..<whole.hiddenSize).map { Float($0 % 7) - 3 }
    for block in [1, 3, 5, 1] {
      let (a, b) = (try whole(block: block, x), try tight(block: block, x))
      for (p, q) in zip(a, b) { XCTAssertEqual(p, q, accuracy: 1e-4 * (1 + abs(p))) }
    }
    XCTAssertThrowsError(try whole(block: 0, x)) { XCTAssertEqual(($0 as? EdgeError)?.kind, .invalidArgument) }
    XCTAssertThrowsError(try whole(block: 1, [1])) { XCTAssertEqual(($0 as? EdgeError)?.kind, .invalidArgument) }
    XCTAssertThrowsError(try FeedForward(bundle: path, budget: 1000)) {
      XCTAssertEqual(($0 as? EdgeError)?.kind, .overBudget)
    }
  }
}
