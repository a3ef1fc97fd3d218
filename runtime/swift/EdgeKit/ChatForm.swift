import Foundation

/// A message of a conversation.
public struct ChatMessage: Sendable, Equatable, Codable {
  public enum Role: String, Sendable, Codable { case system, user, assistant }

  public var role: Role
  public var content: String

  public init(_ role: Role, _ content: String) {
    self.role = role
    self.content = content
  }
}

/// How a bundle's model reads conversations: the texts that its chat template puts between messages, as `edgekit convert`
/// found them (docs/format.md, "Conversations"). Makes the prompts that the template makes in Python.
public struct ChatForm: Sendable {
  /// Token ids that end an answer.
  public let stopTokens: Set<Int32>
  /// Texts that end an answer, of models without a template.
  public let stop: [String]
  /// Whether the tokenizer puts its own tokens around the prompt.
  public let special: Bool
  /// Whether a session may keep what a prompt has in common with the one before.
  public let keepsBeginnings: Bool

  private let between: [Pair: String]
  private let trim: [String: Trim]
  private let reasoningEnd: String?

  private struct Pair: Hashable {
    let after, before: String
  }

  private enum Trim: String, Decodable { case none, both, left, right }

  private struct File: Decodable {
    struct Between: Decodable {
      let after, before, text: String
    }
    let version: Int
    let between: [Between]
    let trim: [String: Trim]
    let reasoning_end: String?
    let special: Bool
    let stop: [String]
    let stop_tokens: [Int32]
    let keeps_beginnings: Bool
  }

  /// Reads the form of a bundle. Throws `.notFound` where its chat template has none.
  public init(bundle path: String) throws(EdgeError) {
    let file = URL(fileURLWithPath: path).appendingPathComponent("tokenizer/edgekit_chat.json")
    guard let data = try? Data(contentsOf: file) else {
      throw EdgeError(
        .notFound, "\(file.path): not there; the chat template has no form as plain data, or the bundle is older than it")
    }
    try self.init(json: data, name: file.path)
  }

  /// Reads a form from the file's content; `name` is for errors.
  init(json: Data, name: String) throws(EdgeError) {
    let read: File
    do {
      read = try JSONDecoder().decode(File.self, from: json)
    } catch {
      throw EdgeError(.corrupt, "\(name): is no description of conversations; convert the model again")
    }
    guard read.version == 1 else {
      throw EdgeError(.unsupported, "\(name): version \(read.version) of the form is not known; use a newer EdgeKit")
    }
    between = Dictionary(
      read.between.map { (Pair(after: $0.after, before: $0.before), $0.text) }, uniquingKeysWith: { first, _ in first })
    trim = read.trim
    reasoningEnd = read.reasoning_end
    special = read.special
    stop = read.stop.filter { !$0.isEmpty }
    stopTokens = Set(read.stop_tokens)
    keepsBeginnings = read.keeps_beginnings
  }

  /// Whether the model has a chat template. One without is rarely made for conversations, and reads them as a transcript.
  public var hasTemplate: Bool { !special }

  /// Whether conversations may begin with a system message.
  public var takesSystem: Bool { between[Pair(after: "start", before: "system")] != nil }

  /// The prompt that the model's next message follows; `now` is for templates that tell the date.
  public func prompt(_ messages: [ChatMessage], now: Date = Date()) throws(EdgeError) -> String {
    guard !messages.isEmpty else { throw EdgeError(.invalidArgument, "a chat has no messages; give at least one") }
    var out = "", before = "start"
    for message in messages {
      let content = shown(message)
      guard !content.isEmpty else {
        throw EdgeError(.invalidArgument, "a message of the \(message.role.rawValue) is empty; leave it out")
      }
      out += try text(before, message.role.rawValue, now) + content
      before = message.role.rawValue
    }
    return out + (try text(before, "answer", now))
  }

  private func text(_ after: String, _ before: String, _ now: Date) throws(EdgeError) -> String {
    guard let found = between[Pair(after: after, before: before)] else {
      let place = after == "start" ? "at the beginning" : "after one of the \(after)"
      let what = before == "answer" ? "no answer" : "no message of the \(before)"
      throw EdgeError(.unsupported, "the model's chat template takes \(what) \(place)")
    }
    return Self.dated(found, now)
  }

  private func shown(_ message: ChatMessage) -> String {
    var text = Substring(message.content)
    if message.role == .assistant, let end = reasoningEnd, let at = text.range(of: end, options: [.backwards, .literal]) {
      text = text[at.upperBound...].drop { $0 == "\n" }
    }
    let trim = trim[message.role.rawValue] ?? .none
    var scalars = text.unicodeScalars
    if trim == .left || trim == .both { scalars = scalars.drop(while: Self.isSpace) }
    if trim == .right || trim == .both {
      while let last = scalars.last, Self.isSpace(last) { scalars.removeLast() }
    }
    return String(Substring(scalars))
  }

  /// White space as Python's str.strip has it.
  private static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: true
    default: false
    }
  }

  /// The text with the date in place of formats, which stand between two characters for private use.
  private static func dated(_ text: String, _ now: Date) -> String {
    let parts = text.split(separator: "\u{E000}", omittingEmptySubsequences: false)
    return parts.dropFirst().reduce(String(parts[0])) { out, part in
      let halves = part.split(separator: "\u{E001}", maxSplits: 1, omittingEmptySubsequences: false)
      return out + written(now, String(halves[0])) + (halves.count > 1 ? halves[1] : "")
    }
  }

  private static func written(_ now: Date, _ format: String) -> String {
    var seconds = time_t(now.timeIntervalSince1970)
    var fields = tm()
    localtime_r(&seconds, &fields)
    var buffer = [CChar](repeating: 0, count: 256)
    let count = strftime(&buffer, buffer.count, format, &fields)
    return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
