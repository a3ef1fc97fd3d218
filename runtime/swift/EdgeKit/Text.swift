/// Turns text into token ids and back. swift-transformers' tokenizers fit behind it; EdgeKit itself has none, so that it
/// depends on nothing.
public protocol Tokenizing: Sendable {
  /// Token ids; `special`: with what the tokenizer puts around a text, mostly a token that begins it.
  func encode(_ text: String, special: Bool) throws -> [Int32]
  /// The text of tokens, special ones left out.
  func decode(_ tokens: [Int32]) throws -> String
}

extension EdgeSession {
  /// Continues a text, piece by piece; a piece never ends within a Unicode scalar. (A later piece can still add an accent
  /// to a character that was shown.)
  public func generate(
    _ prompt: String, tokenizer: some Tokenizing, maxTokens: Int = 128, sampling: Sampling = Sampling(),
    stop: Set<Int32> = []
  ) -> AsyncThrowingStream<String, any Error> {
    AsyncThrowingStream { continuation in
      let task = Task {
        do {
          let ids = try tokenizer.encode(prompt, special: true)
          var stream = TextStream(tokenizer: tokenizer, prompt: ids)
          for try await token in generate(ids, maxTokens: maxTokens, sampling: sampling, stop: stop) {
            let text = try stream.push(token)
            if !text.isEmpty { continuation.yield(text) }
          }
          continuation.finish()
        } catch {
          continuation.finish(throwing: error)
        }
      }
      continuation.onTermination = { _ in task.cancel() }
    }
  }
}

/// Text from tokens as they come. The prompt's last tokens stay in front, so that a leading space is decoded as within a
/// text. Scalars are counted, not characters: a combining accent or a joined emoji changes the last character, and adds
/// none.
struct TextStream<Tokenizer: Tokenizing> {
  private let tokenizer: Tokenizer
  private var ids: [Int32]
  private var shown: Int  // scalars of `ids` that were given out
  private let kept: Int

  init(tokenizer: Tokenizer, prompt: [Int32]) {
    self.tokenizer = tokenizer
    ids = Array(prompt.suffix(4))
    kept = ids.count
    shown = (try? tokenizer.decode(ids).unicodeScalars.count) ?? 0
  }

  /// The text that this token completes; empty while a character is unfinished.
  mutating func push(_ token: Int32) throws -> String {
    ids.append(token)
    let text = try tokenizer.decode(ids).unicodeScalars
    if text.last == "\u{FFFD}" || text.count <= shown { return "" }
    let new = String(String.UnicodeScalarView(text.dropFirst(shown)))
    if ids.count > 2 * kept + 16 { ids.removeFirst(ids.count - kept - 8) }
    shown = try tokenizer.decode(ids).unicodeScalars.count
    return new
  }
}
