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

  /// Continues a prompt of token ids, token by token; begins afresh. Ends at a stop token, after `maxTokens`, when the
  /// context is full, or when the task that reads the stream is cancelled.
  public func generate(
    _ prompt: [Int32], maxTokens: Int = 128, sampling: Sampling = Sampling(), stop: Set<Int32> = []
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
          try worker.run(prompt, maxTokens, sampling, stop, stopped) { continuation.yield($0) }
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
    let worker = self.worker
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
      worker.queue.async {
        continuation.resume(with: Result { try check { error in edgekit_session_save(worker.handle, path, error) } })
      }
    }
  }
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

  func run(
    _ prompt: [Int32], _ maxTokens: Int, _ sampling: Sampling, _ stop: Set<Int32>, _ stopped: Flag,
    _ yield: (Int32) -> Void
  ) throws(EdgeError) {
    edgekit_session_reset(handle)
    if stopped.isSet { return }  // set before the cancellation that the reset may have cleared
    try check { error in edgekit_session_eval(handle, prompt, UInt32(prompt.count), 0, nil, error) }
    var settings = sampling.native
    for _ in 0..<max(0, maxTokens) where !stopped.isSet {
      var token: Int32 = 0
      do throws(EdgeError) {
        try check { error in edgekit_session_next(handle, &settings, &token, error) }
      } catch {
        if error.kind == .contextFull { return }
        throw error
      }
      if stopped.isSet || stop.contains(token) { return }
      yield(token)
    }
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
