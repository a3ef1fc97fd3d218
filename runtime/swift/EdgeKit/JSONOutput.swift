import CEdgeKit
import Dispatch

/// The tokens of a tokenizer as texts, in order; made once for a model, which takes a while for large vocabularies.
public final class Vocabulary: Sendable {
  let size: Int
  /// Tokens that are whole characters, sorted by their bytes.
  let entries: [Entry]

  struct Entry: Sendable {
    let token: Int32
    let bytes: [UInt8]
    let shared: Int  // bytes that it begins with as the entry before it does
  }

  /// - Parameters:
  ///   - size: of the model's vocabulary (`EdgeModel.vocabularySize`).
  ///   - excluded: tokens that stand for no text, as those that end it.
  public init(_ tokenizer: some Tokenizing, size: Int, excluded: Set<Int32> = []) throws {
    self.size = size
    // Behind a letter, as some tokenizers leave out the space that a text begins with.
    let letter = try Array(tokenizer.encode("a", special: false).suffix(1))
    let before = try Array(tokenizer.decode(letter).utf8)
    var found: [(Int32, [UInt8])] = []
    for token in 0..<Int32(size) where !excluded.contains(token) {
      guard let text = try? tokenizer.decode(letter + [token]), !text.unicodeScalars.contains("\u{FFFD}") else { continue }
      let bytes = Array(text.utf8)
      if bytes.count > before.count, bytes.starts(with: before) { found.append((token, Array(bytes[before.count...]))) }
    }
    found.sort { $0.1.lexicographicallyPrecedes($1.1) }
    var last: [UInt8] = []
    entries = found.map { token, bytes in
      defer { last = bytes }
      return Entry(token: token, bytes: bytes, shared: zip(last, bytes).prefix { $0 == $1 }.count)
    }
  }
}

/// A text that must be JSON of a shape. Any number of texts may use it.
public struct JSONOutput: Sendable {
  let shape: JSONShape
  let vocabulary: Vocabulary

  /// Throws `.unsupported` where alternatives of the shape begin alike.
  public init(_ shape: JSONShape, vocabulary: Vocabulary) throws(EdgeError) {
    try shape.check()
    self.shape = shape
    self.vocabulary = vocabulary
  }
}

/// Which tokens may come next in one text; used on the session's queue alone.
final class Mask {
  private var machine: JSONMachine
  private let vocabulary: Vocabulary
  private let stop: Set<Int32>
  private let bytes: [Int32: [UInt8]]
  private var words: [UInt32] = []
  private var known: [JSONMachine: [UInt32]] = [:]

  /// Called by the runtime before it chooses.
  static let callback: edgekit_mask_callback = { mask, words, user in
    let own = Unmanaged<Mask>.fromOpaque(user!).takeUnretainedValue().words
    guard let mask, own.count == Int(words) else { return 1 }
    for i in own.indices { mask[i] &= own[i] }
    return 0
  }

  init(_ output: JSONOutput, _ stop: Set<Int32>) throws(EdgeError) {
    machine = JSONMachine(output.shape)
    vocabulary = output.vocabulary
    self.stop = stop
    bytes = Dictionary(vocabulary.entries.map { ($0.token, $0.bytes) }, uniquingKeysWith: { first, _ in first })
    try prepare()
  }

  /// Whether the text is whole and nothing can follow.
  var isWhole: Bool { machine.isAtEnd }

  /// Follows a token that was chosen.
  func take(_ token: Int32) throws(EdgeError) {
    for byte in bytes[token] ?? [] where !machine.take(byte) {
      throw EdgeError(.invalidArgument, "token \(token) was chosen against the mask")
    }
    try prepare()
  }

  private func prepare() throws(EdgeError) {
    if let found = known[machine] {
      words = found
      return
    }
    words = allowed()
    guard isWhole || words.contains(where: { $0 != 0 }) else {
      throw EdgeError(.unsupported, "no token of the vocabulary can go on with this JSON text")
    }
    if known.count < 256 { known[machine] = words }
  }

  /// The tokens that may come next. Of tokens that begin alike the beginning is followed once.
  private func allowed() -> [UInt32] {
    var out = [UInt32](repeating: 0, count: (vocabulary.size + 31) / 32)
    func allow(_ token: Int32) { out[Int(token) / 32] |= 1 << (UInt32(token) % 32) }
    var states = [machine]  // behind 0, 1, ... bytes of the entry
    for entry in vocabulary.entries {
      guard entry.shared < states.count else { continue }  // begins as one that cannot come
      states.removeLast(states.count - 1 - entry.shared)
      for byte in entry.bytes[entry.shared...] {
        var next = states[states.count - 1]
        guard next.take(byte) else { break }
        states.append(next)
      }
      if states.count == entry.bytes.count + 1 { allow(entry.token) }
    }
    if machine.isWhole { for token in stop where 0..<Int32(vocabulary.size) ~= token { allow(token) } }
    return out
  }
}
