import EdgeKit

/// A turn of a conversation.
public struct Message: Sendable, Equatable, Identifiable {
  public enum Author: Sendable { case person, model }

  public let id: Int
  public let author: Author
  public var text: String
}

/// What a person may set.
public struct Settings: Sendable, Equatable {
  public var budget: UInt64
  public var temperature: Float = 0.8
  public var topK: UInt32 = 40
  public var topP: Float = 0.95
  public var maxTokens = 256

  public init(budget: UInt64) { self.budget = budget }

  public var sampling: Sampling { Sampling(temperature: temperature, topK: topK, topP: topP) }
}

/// The logic of the chat: one bundle, one session, messages and metrics. The views observe it; it knows no view.
@MainActor
public final class Chat {
  public enum State: Equatable, Sendable {
    case idle, generating
    case failed(String)
  }

  public private(set) var messages: [Message] = []
  public private(set) var state = State.idle
  public private(set) var metrics = Metrics()
  public private(set) var settings: Settings
  /// Called after anything above has changed.
  public var changed: () -> Void = {}

  private let model: EdgeModel
  private let session: EdgeSession
  private let tokenizer: any Tokenizing
  private var running: Task<Void, Never>?

  public init(bundle path: String, tokenizer: any Tokenizing, settings: Settings, context: UInt32 = 1024) throws {
    self.settings = settings
    self.tokenizer = tokenizer
    model = try EdgeModel(bundle: path, options: .init(budget: settings.budget, context: context))
    session = try EdgeSession(model)
  }

  /// Sends a prompt and lets the model continue it; does nothing while it does so already.
  public func send(_ prompt: String) {
    guard state != .generating, !prompt.isEmpty else { return }
    messages.append(Message(id: messages.count, author: .person, text: prompt))
    messages.append(Message(id: messages.count, author: .model, text: ""))
    state = .generating
    metrics.restart()
    changed()
    running = Task { await generate(prompt) }
  }

  /// Ends the generation; what there is of the answer stays.
  public func stop() { running?.cancel() }

  /// Waits until nothing is generated.
  public func finished() async { await running?.value }

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

  private func generate(_ prompt: String) async {
    let answer = messages.count - 1
    do {
      let pieces = session.generate(
        prompt, tokenizer: AnyTokenizer(tokenizer), maxTokens: settings.maxTokens, sampling: settings.sampling)
      for try await piece in pieces {
        messages[answer].text += piece
        changed()
      }
      metrics.record(await session.statistics())
      state = .idle
    } catch is CancellationError {
      state = .idle
    } catch {
      state = .failed("\(error)")
    }
    changed()
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
  func encode(_ text: String) throws -> [Int32] { try inner.encode(text) }
  func decode(_ tokens: [Int32]) throws -> String { try inner.decode(tokens) }
}
