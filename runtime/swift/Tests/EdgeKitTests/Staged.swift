// What .ci/stage_swift.py makes for the tests: needs EDGEKIT_TEST_STAGE, a folder.
import Foundation
import XCTest

@testable import EdgeKit

func staged(_ name: String) throws -> URL {
  guard let folder = ProcessInfo.processInfo.environment["EDGEKIT_TEST_STAGE"] else { throw XCTSkip("no stage") }
  return URL(fileURLWithPath: folder).appendingPathComponent(name)
}

func decoded<T: Decodable>(_ name: String, as type: T.Type = T.self) throws -> T {
  try JSONDecoder().decode(T.self, from: Data(contentsOf: staged(name)))
}

/// The demo model's tokens by their texts: text is cut into the longest tokens. (Python cuts it otherwise; for a test of what
/// is made of tokens that does not matter.)
struct Pieces: Tokenizing {
  let texts: [String]
  private let ids: [String: Int32]

  init() throws {
    let texts: [String] = try decoded("pieces.json")
    self.texts = texts
    ids = Dictionary(texts.enumerated().map { ($1, Int32($0)) }, uniquingKeysWith: { first, _ in first })
  }

  func encode(_ text: String, special: Bool) throws -> [Int32] {
    var out: [Int32] = special ? [1] : []
    var rest = Substring(text)
    while !rest.isEmpty {
      let most = min(rest.count, 16)
      guard let length = (1...most).reversed().first(where: { ids[String(rest.prefix($0))] != nil }) else {
        rest.removeFirst()
        continue
      }
      out.append(ids[String(rest.prefix(length))]!)
      rest.removeFirst(length)
    }
    return out
  }

  func decode(_ tokens: [Int32]) throws -> String { tokens.map { texts[Int($0)] }.joined() }
}
