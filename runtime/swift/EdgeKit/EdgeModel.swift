import CEdgeKit

/// An open bundle within a memory budget. Any thread may use it; sessions take turns.
public final class EdgeModel: Sendable {
  /// How to open a bundle; zeros are the runtime's defaults.
  public struct Options: Sendable {
    /// Bytes that the runtime may use, all included; nil for no limit.
    public var budget: UInt64?
    /// Tokens of prompt and text together.
    public var context: UInt32
    /// Compute threads.
    public var threads: UInt32
    /// Sessions that the budget must leave room for.
    public var sessions: UInt32
    /// Most tokens that are drafted from the text so far for one pass, at most 64. Worth it where
    /// weights are read from flash and texts repeat themselves; the text stays the same.
    public var draftTokens: UInt32

    public init(
      budget: UInt64? = nil, context: UInt32 = 0, threads: UInt32 = 0, sessions: UInt32 = 1, draftTokens: UInt32 = 0
    ) {
      self.budget = budget
      self.context = context
      self.threads = threads
      self.sessions = sessions
      self.draftTokens = draftTokens
    }
  }

  /// What the planner decided, in bytes.
  public struct Plan: Sendable, Equatable {
    public let context: Int
    public let budget: UInt64
    /// The least budget that works with these options.
    public let floor: UInt64
    public let weights: UInt64
    public let resident: UInt64
    /// Room for units that recent tokens needed.
    public let window: UInt64

    init(_ plan: edgekit_plan) {
      context = Int(plan.context)
      budget = plan.budget_bytes
      floor = plan.floor_bytes
      weights = plan.weight_bytes
      resident = plan.resident_bytes
      window = plan.window_bytes
    }
  }

  // The C handle is thread-safe by its contract (edgekit.h); it is never reassigned.
  nonisolated(unsafe) let handle: OpaquePointer
  public let vocabularySize: Int
  public let hiddenSize: Int

  /// Opens a bundle: the folder that `edgekit convert` made.
  public init(bundle path: String, options: Options = Options()) throws(EdgeError) {
    var given = Self.native(options)
    var opened: OpaquePointer?
    try check { error in edgekit_model_open(path, &given, &opened, error) }
    handle = opened!
    var info = edgekit_info()
    info.struct_size = UInt32(MemoryLayout<edgekit_info>.size)
    try check { error in edgekit_model_info(handle, &info, error) }
    vocabularySize = Int(info.vocab_size)
    hiddenSize = Int(info.hidden_size)
  }

  deinit { edgekit_model_close(handle) }

  /// What opening would do, without loading weights. Throws `.overBudget` below the floor.
  public static func plan(bundle path: String, options: Options = Options()) throws(EdgeError) -> Plan {
    var given = native(options)
    var plan = edgekit_plan()
    plan.struct_size = UInt32(MemoryLayout<edgekit_plan>.size)
    try check { error in edgekit_plan_bundle(path, &given, &plan, error) }
    return Plan(plan)
  }

  /// Changes the budget, also while a session generates: memory is given back before this returns, and the text
  /// stays the same. This is what to do on a memory warning.
  public func setBudget(_ bytes: UInt64?) throws(EdgeError) {
    try check { error in edgekit_model_set_budget(handle, bytes ?? 0, error) }
  }

  static func native(_ options: Options) -> edgekit_options {
    var out = edgekit_options()
    out.struct_size = UInt32(MemoryLayout<edgekit_options>.size)
    out.budget_bytes = options.budget ?? 0
    out.context = options.context
    out.threads = options.threads
    out.sessions = options.sessions
    out.draft_tokens = options.draftTokens
    return out
  }
}
