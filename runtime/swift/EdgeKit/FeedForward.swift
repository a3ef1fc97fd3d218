import CEdgeKit

/// Feed-forward blocks of a bundle within a budget, for an engine that computes the rest.
public final class FeedForward: @unchecked Sendable {
  private let model: OpaquePointer
  private let session: OpaquePointer
  public let hiddenSize: Int

  /// Opens a bundle; the budget holds its feed-forward blocks and nothing else.
  public init(bundle path: String, budget: UInt64?) throws(EdgeError) {
    var options = EdgeModel.native(.init(budget: budget))
    options.compute = UInt32(EDGEKIT_COMPUTE_FEED_FORWARD)
    var opened: OpaquePointer?
    try check { error in edgekit_model_open(path, &options, &opened, error) }
    let model = opened!
    var made: OpaquePointer?
    do throws(EdgeError) {
      try check { error in edgekit_session_create(model, &made, error) }
    } catch {
      edgekit_model_close(model)
      throw error
    }
    self.model = model
    session = made!
    var info = edgekit_info()
    info.struct_size = UInt32(MemoryLayout<edgekit_info>.size)
    _ = edgekit_model_info(model, &info, nil)
    hiddenSize = Int(info.hidden_size)
  }

  deinit {
    edgekit_session_destroy(session)
    edgekit_model_close(model)
  }

  /// One block on x [hiddenSize], after its norm. Calls from one thread at a time, blocks in their order.
  public func callAsFunction(block: Int, _ x: [Float]) throws(EdgeError) -> [Float] {
    guard x.count == hiddenSize, block >= 0 else {
      throw EdgeError(status: Int32(EDGEKIT_INVALID_ARGUMENT), message: "x has \(x.count) values, not \(hiddenSize)")
    }
    var out = [Float](repeating: 0, count: hiddenSize)
    try check { error in edgekit_session_feed_forward(session, UInt32(block), x, 1, &out, error) }
    return out
  }
}
