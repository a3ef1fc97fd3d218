import EdgeKit
import Foundation

/// What a person may set.
public struct Settings: Sendable, Equatable {
  public var budget: UInt64
  public var temperature: Float = 0.8
  public var topK: UInt32 = 40
  public var topP: Float = 0.95
  public var maxTokens = 256
  /// What every new conversation begins with; empty: nothing. For models whose chat template takes it.
  public var system = ""

  public init(budget: UInt64) { self.budget = budget }

  public var sampling: Sampling { Sampling(temperature: temperature, topK: topK, topP: topP) }
}

/// The logic of the chat: one bundle, one session, several conversations, and metrics. The views observe it; it knows no
/// view. The conversation that is open has the session; when another one is opened, the session is saved beside the
/// conversation and that of the other one restored, so that one budget serves any number of them.
@MainActor
public final class Chat {
  public enum State: Equatable, Sendable {
    case idle, generating
    case failed(String)
  }

  public let conversations: Conversations
  public private(set) var current: Conversation
  public private(set) var state = State.idle
  public private(set) var metrics = Metrics()
  public private(set) var settings: Settings
  /// Called after anything above has changed.
  public var changed: () -> Void = {}

  public var messages: [Message] { current.messages }

  private let model: EdgeModel
  private let session: EdgeSession
  private let tokenizer: AnyTokenizer
  private let form: ChatForm?  // nil: prompts are continued
  private var running: Task<Void, Never>?
  private var opening: Task<Void, Never>?

  /// `context`: 0 for what the runtime chooses; `folder`: where conversations are kept, nil: nowhere.
  public init(
    bundle path: String, tokenizer: any Tokenizing, settings: Settings, context: UInt32 = 0, folder: URL? = nil
  ) throws {
    self.settings = settings
    self.tokenizer = AnyTokenizer(tokenizer)
    model = try EdgeModel(bundle: path, options: .init(budget: settings.budget, context: context))
    session = try EdgeSession(model)
    let form = try? ChatForm(bundle: path)
    self.form = form?.hasTemplate == true ? form : nil
    conversations = try Conversations(folder: folder)
    current = conversations.make()
  }

  /// Sends a message and lets the model answer; a model without a chat template continues the text. Does nothing while
  /// an answer is under way.
  public func send(_ prompt: String) {
    guard state != .generating, !prompt.isEmpty else { return }
    add(.person, prompt)
    add(.model, "")
    state = .generating
    metrics.restart()
    keep()
    let before = opening
    running = Task {
      await before?.value
      await generate()
    }
  }

  /// Ends the generation; what there is of the answer stays.
  public func stop() { running?.cancel() }

  /// Waits until nothing is generated or opened.
  public func finished() async {
    await running?.value
    await opening?.value
  }

  /// Takes settings over; a budget at once, also during a generation.
  public func apply(_ new: Settings) {
    do {
      if new.budget != settings.budget { try model.setBudget(new.budget) }
      settings = new
    } catch {
      state = .failed("\(error)")
    }
    changed()
  }

  /// What an app does on a memory warning: half of what lies above the floor goes.
  public func memoryWarning(floor: UInt64) {
    var less = settings
    less.budget = MemoryPressure.Levels(normal: settings.budget, floor: floor).warning
    apply(less)
  }

  // --- several conversations -------------------------------------------------------------------------

  /// Begins another conversation; an answer under way ends.
  public func begin() { show(conversations.all.first { $0.messages.isEmpty } ?? conversations.make()) }

  /// Goes on with a conversation; an answer under way in another one ends.
  public func open(_ id: Conversation.ID) {
    guard id != current.id, let found = conversations[id] else { return }
    show(found)
  }

  public func rename(_ id: Conversation.ID, _ name: String) {
    guard var found = id == current.id ? current : conversations[id] else { return }
    found.name = name
    if id == current.id { current = found }
    attempt { try conversations.keep(found) }
    changed()
  }

  /// Deletes a conversation; of the one that is open an answer under way ends, and another conversation is opened.
  public func delete(_ id: Conversation.ID) {
    attempt { try conversations.delete(id) }
    if id == current.id {
      show(conversations.all.first ?? conversations.make(), keeping: false)
    }
    changed()
  }

  private func show(_ next: Conversation, keeping: Bool = true) {
    let (last, ended, before) = (current, running, opening)
    stop()
    current = next
    state = .idle
    changed()
    opening = Task {
      await before?.value
      await ended?.value
      if keeping, !last.messages.isEmpty, let file = conversations.session(last.id) {
        try? await session.save(to: file.path)
      }
      if let file = conversations.session(next.id), FileManager.default.fileExists(atPath: file.path) {
        try? await session.restore(from: file.path)  // without it the conversation is read once more
      }
    }
  }

  // --- answers -----------------------------------------------------------------------------------------

  private func generate() async {
    let id = current.id
    do {
      for try await piece in answer() where id == current.id {
        current.messages[current.messages.count - 1].text += piece
        changed()
      }
      metrics.record(await session.statistics())
      finish(id, .idle)
    } catch is CancellationError {
      finish(id, .idle)
    } catch {
      finish(id, .failed("\(error)"))
    }
  }

  private func answer() -> AsyncThrowingStream<String, any Error> {
    let said = current.messages.dropLast()
    guard let form else {
      return session.generate(
        said.last?.text ?? "", tokenizer: tokenizer, maxTokens: settings.maxTokens, sampling: settings.sampling)
    }
    let system = settings.system.isEmpty || !form.takesSystem ? [] : [ChatMessage(.system, settings.system)]
    // Answers that were stopped before they began are left out, with what they answer.
    var turns: [ChatMessage] = []
    for message in said {
      if message.author == .person, turns.last?.role == .user { turns.removeLast() }
      if !message.text.isEmpty { turns.append(ChatMessage(message.author == .person ? .user : .assistant, message.text)) }
    }
    return session.reply(
      to: system + turns, form: form, tokenizer: tokenizer, maxTokens: settings.maxTokens, sampling: settings.sampling)
  }

  /// The end of an answer, unless another conversation was opened meanwhile.
  private func finish(_ id: Conversation.ID, _ state: State) {
    guard id == current.id else { return }
    self.state = state
    keep()
  }

  private func add(_ author: Message.Author, _ text: String) {
    current.messages.append(Message(id: current.messages.count, author: author, text: text))
    current.changed = Date()
  }

  private func keep() {
    attempt { try conversations.keep(current) }
    changed()
  }

  private func attempt(_ body: () throws -> Void) {
    do {
      try body()
    } catch {
      state = .failed("\(error)")
    }
  }

  /// The views ask every so often while tokens come.
  public func look() async {
    metrics.record(await session.statistics())
    changed()
  }
}

/// A tokenizer of any type, for generic functions.
struct AnyTokenizer: Tokenizing {
  private let inner: any Tokenizing
  init(_ inner: any Tokenizing) { self.inner = inner }
  func encode(_ text: String, special: Bool) throws -> [Int32] { try inner.encode(text, special: special) }
  func decode(_ tokens: [Int32]) throws -> String { try inner.decode(tokens) }
}
