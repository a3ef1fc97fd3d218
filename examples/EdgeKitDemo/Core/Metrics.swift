import EdgeKit

/// One look at a running session.
public struct Sample: Sendable, Equatable, Identifiable {
  public let id: Int
  public let tokensPerSecond: Double
  public let memory: UInt64
  public let bytesPerToken: UInt64
  /// Share of the units needed that were in memory; nil when nothing was selected.
  public let windowHits: Double?
}

/// The last samples of a generation, as differences between statistics: what the charts show.
public struct Metrics: Sendable {
  public private(set) var samples: [Sample] = []
  private var last: Statistics?
  private var next = 0
  private let most: Int

  public init(keeping most: Int = 120) { self.most = most }

  /// Takes the counters as they are now; a sample needs at least one token since the last.
  public mutating func record(_ now: Statistics) {
    defer { last = now }
    guard let before = last, now.generatedTokens > before.generatedTokens else { return }
    let tokens = now.generatedTokens - before.generatedTokens
    let seconds = now.generationSeconds - before.generationSeconds
    let hits = now.windowHits - before.windowHits, all = hits + now.windowMisses - before.windowMisses
    samples.append(
      Sample(
        id: next,
        tokensPerSecond: seconds > 0 ? Double(tokens) / seconds : 0,
        memory: now.memory,
        bytesPerToken: (now.generationBytesRead - before.generationBytesRead) / tokens,
        windowHits: all > 0 ? Double(hits) / Double(all) : nil))
    next += 1
    if samples.count > most { samples.removeFirst(samples.count - most) }
  }

  /// Before another text: counters begin anew, what was drawn stays.
  public mutating func restart() { last = nil }
}
