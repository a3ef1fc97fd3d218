#if canImport(Darwin)
import Dispatch
#endif

/// Shrinks a model's budget when the system is short of memory, and lets it grow again afterwards.
public final class MemoryPressure: Sendable {
  /// Budgets, in bytes.
  public struct Levels: Sendable, Equatable {
    public var normal: UInt64
    public var warning: UInt64
    public var critical: UInt64

    public init(normal: UInt64, warning: UInt64, critical: UInt64) {
      self.normal = normal
      self.warning = warning
      self.critical = critical
    }

    /// The whole, half of what lies above the floor, and the floor with a little room.
    public init(normal: UInt64, floor: UInt64) {
      let above = normal > floor ? normal - floor : 0
      self.init(normal: normal, warning: floor + above / 2, critical: floor + above / 8)
    }
  }

  public enum Level: Sendable { case normal, warning, critical }

  private let model: EdgeModel
  public let levels: Levels

  public init(_ model: EdgeModel, levels: Levels) {
    self.model = model
    self.levels = levels
  }

  /// Sets the budget of a level; memory is given back before this returns.
  public func respond(to level: Level) throws(EdgeError) {
    switch level {
    case .normal: try model.setBudget(levels.normal)
    case .warning: try model.setBudget(levels.warning)
    case .critical: try model.setBudget(levels.critical)
    }
  }

  #if canImport(Darwin)
  /// Follows the system's memory pressure until the task is cancelled.
  public func follow() async {
    let events = AsyncStream<Level> { continuation in
      let source = DispatchSource.makeMemoryPressureSource(eventMask: [.normal, .warning, .critical])
      nonisolated(unsafe) let unsafe = source
      source.setEventHandler {
        let data = unsafe.data
        continuation.yield(data.contains(.critical) ? .critical : data.contains(.warning) ? .warning : .normal)
      }
      continuation.onTermination = { _ in unsafe.cancel() }
      source.resume()
    }
    for await level in events { try? respond(to: level) }
  }
  #endif
}
