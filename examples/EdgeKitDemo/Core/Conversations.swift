import Foundation

/// A turn of a conversation.
public struct Message: Sendable, Equatable, Identifiable, Codable {
  public enum Author: String, Sendable, Codable { case person, model }

  public let id: Int
  public let author: Author
  public var text: String
}

/// What was said, under a name.
public struct Conversation: Sendable, Equatable, Identifiable, Codable {
  public let id: UUID
  /// Empty until there is one: the list then shows what was said first.
  public var name = ""
  public internal(set) var messages: [Message] = []
  /// When it was last changed; the list has the newest first.
  public internal(set) var changed: Date

  public var title: String {
    if !name.isEmpty { return name }
    let first = messages.first?.text.split(separator: "\n").first.map { String($0.prefix(40)) }
    return first ?? "New conversation"
  }
}

/// All conversations, each in a file of its own, written whole or not at all.
@MainActor
public final class Conversations {
  public private(set) var all: [Conversation] = []
  /// Names of files that are no conversations; they are left alone.
  public private(set) var unread: [String] = []
  private let folder: URL?

  /// Reads what is there; `folder` nil: nothing is kept.
  public init(folder: URL?) throws {
    self.folder = folder
    guard let folder else { return }
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for file in try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
    where file.pathExtension == "json" {
      let read = try? JSONDecoder().decode(Conversation.self, from: Data(contentsOf: file))
      guard let read, file.lastPathComponent == "\(read.id).json" else {
        unread.append(file.lastPathComponent)
        continue
      }
      all.append(read)
    }
    sort()
  }

  public subscript(id: Conversation.ID) -> Conversation? { all.first { $0.id == id } }

  /// A new one without messages, which is kept once there are some.
  public func make() -> Conversation {
    let made = Conversation(id: UUID(), changed: Date())
    all.insert(made, at: 0)
    return made
  }

  /// Takes a changed conversation over and writes it.
  public func keep(_ conversation: Conversation) throws {
    guard let at = all.firstIndex(where: { $0.id == conversation.id }) else { return }  // deleted meanwhile
    all[at] = conversation
    sort()
    guard let folder, !conversation.messages.isEmpty else { return }
    try JSONEncoder().encode(conversation).write(to: folder.appendingPathComponent("\(conversation.id).json"), options: .atomic)
  }

  /// Forgets one, its file and its saved session.
  public func delete(_ id: Conversation.ID) throws {
    all.removeAll { $0.id == id }
    for file in [folder?.appendingPathComponent("\(id).json"), session(id)].compactMap({ $0 })
    where FileManager.default.fileExists(atPath: file.path) {
      try FileManager.default.removeItem(at: file)
    }
  }

  /// Where the session of a conversation is saved while another one is open.
  func session(_ id: Conversation.ID) -> URL? { folder?.appendingPathComponent("\(id).session") }

  private func sort() { all.sort { $0.changed > $1.changed } }
}
