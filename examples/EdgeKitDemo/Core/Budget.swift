import EdgeKit

/// Budgets that make sense on a device, from what the system lets an app have.
public struct BudgetAdvice: Sendable, Equatable {
  /// Bytes; never below the model's floor.
  public let suggested: UInt64
  public let least: UInt64
  public let most: UInt64

  /// - Parameters:
  ///   - available: what the app may still allocate (`os_proc_available_memory()` on iOS).
  ///   - plan: of the bundle, without a limit.
  public init(available: UInt64, plan: EdgeModel.Plan) {
    let floor = plan.floor + plan.floor / 16
    let room = available / 10 * 7  // the rest is for the interface, the tokenizer and the system's patience
    least = floor
    most = max(floor, min(plan.budget, room))
    suggested = most
  }
}

/// Classes of devices and what they give an app (docs of Apple and measurements by others; check on your device).
public enum DeviceClass: String, CaseIterable, Sendable {
  case phone4, phone6, phone8, tablet8, mac16

  public var name: String {
    switch self {
    case .phone4: "iPhone with 4 GB"
    case .phone6: "iPhone with 6 GB"
    case .phone8: "iPhone with 8 GB"
    case .tablet8: "iPad with 8 GB"
    case .mac16: "Mac with 16 GB"
    }
  }

  /// A sensible budget in bytes, with the increased-memory entitlement.
  public var budget: UInt64 {
    switch self {
    case .phone4: 1000 << 20
    case .phone6: 2000 << 20
    case .phone8: 3500 << 20
    case .tablet8: 4000 << 20
    case .mac16: 8000 << 20
    }
  }
}
