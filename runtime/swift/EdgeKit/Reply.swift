extension EdgeSession {
  /// The model's next message of a conversation, piece by piece. What the session still holds of the conversation is not
  /// computed again. Ends as `generate` does, and at the texts that end an answer in models without a chat template.
  ///
  /// - Parameters:
  ///   - messages: the conversation so far; the last is mostly the user's.
  ///   - form: of the bundle.
  ///   - output: what the answer must be; nil: any text.
  public func reply(
    to messages: [ChatMessage], form: ChatForm, tokenizer: some Tokenizing, maxTokens: Int = 512,
    sampling: Sampling = Sampling(), output: JSONOutput? = nil
  ) -> AsyncThrowingStream<String, any Error> {
    AsyncThrowingStream { continuation in
      let task = Task {
        do {
          let ids = try tokenizer.encode(form.prompt(messages), special: form.special)
          var stream = TextStream(tokenizer: tokenizer, prompt: ids)
          var ending = StopTexts(form.stop)
          let tokens = generate(
            ids, maxTokens: maxTokens, sampling: sampling, stop: form.stopTokens, output: output,
            keepsBeginning: form.keepsBeginnings)
          for try await token in tokens {
            let text = ending.push(try stream.push(token))
            if !text.isEmpty { continuation.yield(text) }
            if ending.isReached { break }
          }
          let rest = ending.rest()
          if !rest.isEmpty { continuation.yield(rest) }
          continuation.finish()
        } catch {
          continuation.finish(throwing: error)
        }
      }
      continuation.onTermination = { _ in task.cancel() }
    }
  }
}

/// Ends a text before the first of some texts, which may come in pieces.
struct StopTexts {
  private let texts: [[UInt8]]
  private var held: [UInt8] = []  // may be the beginning of one of them
  private(set) var isReached = false

  init(_ texts: [String]) { self.texts = texts.map { Array($0.utf8) } }

  /// What of the text so far can be shown; nothing more after the end.
  mutating func push(_ piece: String) -> String {
    guard !isReached else { return "" }
    held += Array(piece.utf8)
    for at in held.indices {
      let tail = held[at...]
      if texts.contains(where: { tail.starts(with: $0) }) {
        isReached = true
        return take(at)
      }
      if texts.contains(where: { $0.starts(with: tail) }) { return take(at) }
    }
    return take(held.count)
  }

  /// What was held back, when no more text comes.
  mutating func rest() -> String { isReached ? "" : take(held.count) }

  private mutating func take(_ count: Int) -> String {
    defer { held.removeFirst(count) }
    return String(decoding: held[..<count], as: UTF8.self)
  }
}
