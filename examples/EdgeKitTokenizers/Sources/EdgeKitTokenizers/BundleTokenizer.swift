#if canImport(Tokenizers)
import EdgeKit
import Foundation
import Tokenizers

/// The tokenizer that lies in a bundle (NAME.edgekit/tokenizer), read by swift-transformers.
public struct BundleTokenizer: Tokenizing, @unchecked Sendable {
  private let inner: any Tokenizer  // immutable once made

  public init(folder: URL) async throws {
    inner = try await AutoTokenizer.from(modelFolder: folder)
  }

  public func encode(_ text: String, special: Bool) throws -> [Int32] {
    inner.encode(text: text, addSpecialTokens: special).map { Int32($0) }
  }

  public func decode(_ tokens: [Int32]) throws -> String {
    inner.decode(tokens: tokens.map { Int($0) }, skipSpecialTokens: true)
  }
}
#endif
