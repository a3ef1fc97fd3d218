#if canImport(CoreML)
import CoreML
import Foundation

/// A `coreml-flash` artifact: Core ML computes attention, norms and the head, and this runtime the feed-forward blocks
/// between them, from flash within a budget. Token by token: a state belongs to one function of the package.
public final class CoreMLFlash {
  private struct Stretch {
    let after: Int?  // the feed-forward block before it; nil for the first
    let model: MLModel
    var state: MLState
  }

  private var stretches: [Stretch] = []
  private let blocks: FeedForward
  private var position: Int32 = 0

  /// - Parameters:
  ///   - artifact: BUNDLE/artifacts/coreml-flash with its package compiled (`MLModel.compileModel(at:)`).
  ///   - compiled: the compiled package.
  ///   - feedForward: the numbers of the model's feed-forward blocks, in order.
  public init(bundle path: String, compiled: URL, feedForward: [Int], budget: UInt64?) async throws {
    blocks = try FeedForward(bundle: path, budget: budget)
    for after in [nil] + feedForward.map(Optional.some) {
      let configuration = MLModelConfiguration()
      configuration.functionName = after.map { "after_\($0)" } ?? "embed"
      let model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
      stretches.append(Stretch(after: after, model: model, state: model.makeState()))
    }
  }

  /// Forgets all tokens.
  public func reset() {
    for i in stretches.indices { stretches[i].state = stretches[i].model.makeState() }
    position = 0
  }

  /// Appends a token; its logits.
  public func logits(_ token: Int32) throws -> MLMultiArray {
    let place = try MLMultiArray([position])
    let ids = try MLMultiArray(shape: [1, 1], dataType: .int32)
    ids[0] = NSNumber(value: token)
    var given: [String: MLMultiArray] = ["ids": ids, "position": place]
    for (i, stretch) in stretches.enumerated() {
      let provider = try MLDictionaryFeatureProvider(dictionary: given)
      let out = try stretch.model.prediction(from: provider, using: stretch.state)
      guard i + 1 < stretches.count, let block = stretches[i + 1].after else {
        position += 1
        return try Self.array(out, "logits")
      }
      let input = try Self.array(out, "input")
      let x = (0..<input.count).map { input[$0].floatValue }
      let computed = try blocks(block: block, x)
      let y = try MLMultiArray(shape: input.shape, dataType: input.dataType)
      for (j, value) in computed.enumerated() { y[j] = NSNumber(value: value) }
      given = ["residual": try Self.array(out, "residual_out"), "out": y, "position": place]
    }
    throw EdgeError(status: 0, message: "the package has no functions")
  }

  private static func array(_ from: any MLFeatureProvider, _ name: String) throws -> MLMultiArray {
    guard let found = from.featureValue(for: name)?.multiArrayValue else {
      throw EdgeError(status: 0, message: "the package has no output '\(name)'; export it again")
    }
    return found
  }
}
#endif
