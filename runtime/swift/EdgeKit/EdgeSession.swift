import CEdgeKit
import Dispatch

/// How to choose a token; the defaults are llama.cpp's. A temperature of 0 is greedy.
public struct Sampling: Sendable {
  public var temperature: Float
  public var topK: UInt32
  public var topP: Float
  public var minP: Float
  public var repeatPenalty: Float
  public var seed: UInt64

  /// Nil: the runtime's default (edgekit_default_sampling).
  public init(
    temperature: Float? = nil, topK: UInt32? = nil, topP: Float? = nil, minP: Float? = nil,
    repeatPenalty: Float? = nil, seed: UInt64 = 0
  ) {
    var defaults = edgekit_sampling()
    defaults.struct_size = UInt32(MemoryLayout<edgekit_sampling>.size)
    _ = edgekit_default_sampling(&defaults, nil)
    self.temperature = temperature ?? defaults.temperature
    self.topK = topK ?? defaults.top_k
    self.topP = topP ?? defaults.top_p
    self.minP = minP ?? defaults.min_p
    self.repeatPenalty = repeatPenalty ?? defaults.repeat_penalty
    self.seed = seed
  }

  public static let greedy = Sampling(temperature: 0)

  var native: edgekit_sampling {
    var out = edgekit_sampling()
    out.struct_size = UInt32(MemoryLayout<edgekit_sampling>.size)
    out.temperature = temperature
    out.top_k = topK
    out.top_p = topP
    out.min_p = minP
    out.repeat_penalty = repeatPenalty
    out.seed = seed
    return out
  }
}

/// Counters of a session and of the memory behind it.
public struct Statistics: Sendable, Equatable {
  public let memory: UInt64
  public let peakMemory: UInt64
  public let generatedTokens: UInt64
  public let generationSeconds: Double
  public let generationBytesRead: UInt64
  public let windowHits: UInt64
  public let windowMisses: UInt64

  public var tokensPerSecond: Double { generationSeconds > 0 ? Double(generatedTokens) / generationSeconds : 0 }
}

/// One text under way. Computation runs on a queue of its own, never on Swift's cooperative threads; generations of one
/// session follow each other.
public final class EdgeSession: Sendable {
  public let model: EdgeModel
  private let worker: Worker

  /// Makes a session; the model's budget must leave room for it.
  public init(_ model: EdgeModel) throws(EdgeError) {
    self.model = model
    worker = try Worker(model)
  }

  /// Continues a prompt of token ids, token by token. Ends at a stop token, after `maxTokens`, when the context is full,
  /// when the output is whole, or when the task that reads the stream is cancelled.
  ///
  /// - Parameters:
  ///   - stop: tokens that end the text; they are not given out.
  ///   - output: what the text must be; nil: any.
  ///   - keepsBeginning: what the session holds of the prompt already is not computed again, else it begins afresh. The
  ///     text is the same.
  public func generate(
    _ prompt: [Int32], maxTokens: Int = 128, sampling: Sampling = Sampling(), stop: Set<Int32> = [],
    output: JSONOutput? = nil, keepsBeginning: Bool = false
  ) -> AsyncThrowingStream<Int32, any Error> {
    AsyncThrowingStream { continuation in
      let worker = self.worker
      let stopped = Flag()
      continuation.onTermination = { reason in
        guard case .cancelled = reason else { return }
        stopped.set()
        worker.cancel()
      }
      worker.queue.async {
        do throws(EdgeError) {
          let request = Request(
            prompt: prompt, maxTokens: maxTokens, sampling: sampling, stop: stop, output: output,
            keepsBeginning: keepsBeginning)
          try worker.run(request, stopped) { continuation.yield($0) }
          continuation.finish()
        } catch {
          continuation.finish(throwing: error.kind == .cancelled ? CancellationError() : error)
        }
      }
    }
  }

  /// The counters as they are now, also while a text is generated; waits for one pass of the model at most.
  public func statistics() async -> Statistics {
    let worker = self.worker
    return await withCheckedContinuation { continuation in
      DispatchQueue.global(qos: .userInitiated).async { continuation.resume(returning: worker.statistics()) }
    }
  }

  /// The tokens that the session holds: of the last generation the prompt and all tokens that were chosen but the last,
  /// wherever it ended. Waits for a generation that is under way.
  public func tokens() async -> [Int32] {
    let worker = self.worker
    return await withCheckedContinuation { continuation in
      worker.queue.async { continuation.resume(returning: worker.tokens()) }
    }
  }

  /// Writes the session to a file, from which another of the same bundle goes on.
  public func save(to path: String) async throws {
    try await alone { worker in try check { error in edgekit_session_save(worker.handle, path, error) } }
  }

  /// Takes the tokens, keys and values of a saved session; what the session held is forgotten. Text goes on from there
  /// with `keepsBeginning`. After an error the session is empty.
  public func restore(from path: String) async throws {
    try await alone { worker in try check { error in edgekit_session_restore(worker.handle, path, error) } }
  }

  /// Does something with the worker when no text is under way, on its queue.
  func alone<T: Sendable>(_ body: @escaping @Sendable (Worker) throws -> T) async throws -> T {
    let worker = self.worker
    return try await withCheckedThrowingContinuation { continuation in
      worker.queue.async { continuation.resume(with: Result { try body(worker) }) }
    }
  }
}

/// What a text is to be.
struct Request: Sendable {
  let prompt: [Int32]
  let maxTokens: Int
  let sampling: Sampling
  let stop: Set<Int32>
  let output: JSONOutput?
  let keepsBeginning: Bool
}

/// A flag that one thread sets and another reads.
final class Flag: @unchecked Sendable {
  private let queue = DispatchQueue(label: "edgekit.flag")
  private var value = false
  func set() { queue.sync { value = true } }
  var isSet: Bool { queue.sync { value } }
}

/// The C session and the serial queue on which alone it is used, but for `cancel` and `statistics`, which any thread may
/// call.
final class Worker: @unchecked Sendable {
  let model: EdgeModel  // outlives the session
  let handle: OpaquePointer
  let queue = DispatchQueue(label: "edgekit.session", qos: .userInitiated)

  init(_ model: EdgeModel) throws(EdgeError) {
    self.model = model
    var made: OpaquePointer?
    try check { error in edgekit_session_create(model.handle, &made, error) }
    handle = made!
  }

  deinit { edgekit_session_destroy(handle) }

  func cancel() { edgekit_session_cancel(handle) }

  func run(_ request: Request, _ stopped: Flag, _ yield: (Int32) -> Void) throws(EdgeError) {
    let begin = request.keepsBeginning ? rewind(to: request.prompt) : 0
    if begin == 0 { edgekit_session_reset(handle) }
    if stopped.isSet { return }  // set before the cancellation that the reset may have cleared
    let rest = Array(request.prompt.dropFirst(begin))
    try check { error in edgekit_session_eval(handle, rest, UInt32(rest.count), 0, nil, error) }
    let mask = try request.output.map { output throws(EdgeError) in try Mask(output, request.stop) }
    if let mask { edgekit_session_set_mask(handle, Mask.callback, Unmanaged.passUnretained(mask).toOpaque()) }
    defer { if mask != nil { edgekit_session_set_mask(handle, nil, nil) } }
    var settings = request.sampling.native
    for _ in 0..<max(0, request.maxTokens) where !stopped.isSet {
      if mask?.isWhole == true { return }
      var token: Int32 = 0
      do throws(EdgeError) {
        try check { error in edgekit_session_next(handle, &settings, &token, error) }
      } catch {
        if error.kind == .contextFull { return }
        throw error
      }
      if stopped.isSet || request.stop.contains(token) { return }
      try mask?.take(token)
      yield(token)
    }
    withExtendedLifetime(mask) {}
  }

  /// Goes back to what the session's tokens share with a prompt, one token of which is always left; returns how many
  /// tokens that leaves, 0 where it cannot go back.
  private func rewind(to prompt: [Int32]) -> Int {
    let shared = zip(tokens(), prompt.dropLast()).prefix { $0 == $1 }.count
    return edgekit_session_rewind(handle, UInt32(shared), nil) == 0 ? shared : 0
  }

  func tokens() -> [Int32] {
    var out = [Int32](repeating: 0, count: Int(edgekit_session_position(handle)))
    _ = edgekit_session_tokens(handle, &out, UInt32(out.count))
    return out
  }

  func statistics() -> Statistics {
    var s = edgekit_stats()
    s.struct_size = UInt32(MemoryLayout<edgekit_stats>.size)
    _ = edgekit_session_stats(handle, &s, nil)
    return Statistics(
      memory: s.memory_bytes, peakMemory: s.peak_memory_bytes, generatedTokens: s.generated_tokens,
      generationSeconds: s.generation_seconds, generationBytesRead: s.generation_bytes_read,
      windowHits: s.window_hits, windowMisses: s.window_misses)
  }
}
