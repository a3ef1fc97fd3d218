import CEdgeKit

/// What went wrong, as the runtime says it: one line with the cause and, where there is one, the cure.
public struct EdgeError: Error, Sendable, Equatable, CustomStringConvertible {
  /// Kinds of failure (edgekit.h).
  public enum Kind: Sendable, Equatable {
    case invalidArgument, notFound, corrupt, unsupported, io, overBudget, cancelled, noMemory, contextFull, notFinite
    case other(Int32)
  }

  public let kind: Kind
  public let description: String

  init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }

  init(status: Int32, message: String) {
    description = message.isEmpty ? "the runtime failed with status \(status)" : message
    switch Int(status) {
    case Int(EDGEKIT_INVALID_ARGUMENT): kind = .invalidArgument
    case Int(EDGEKIT_NOT_FOUND): kind = .notFound
    case Int(EDGEKIT_CORRUPT): kind = .corrupt
    case Int(EDGEKIT_UNSUPPORTED): kind = .unsupported
    case Int(EDGEKIT_IO): kind = .io
    case Int(EDGEKIT_OVER_BUDGET): kind = .overBudget
    case Int(EDGEKIT_CANCELLED): kind = .cancelled
    case Int(EDGEKIT_NO_MEMORY): kind = .noMemory
    case Int(EDGEKIT_CONTEXT_FULL): kind = .contextFull
    case Int(EDGEKIT_NOT_FINITE): kind = .notFinite
    default: kind = .other(status)
    }
  }
}

/// Calls a function of the C ABI and turns its status into an error.
func check(_ body: (UnsafeMutablePointer<edgekit_error>) -> edgekit_status) throws(EdgeError) {
  var error = edgekit_error()
  let status = body(&error)
  guard status != 0 else { return }
  let message = withUnsafeBytes(of: &error.message) { bytes in
    String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
  throw EdgeError(status: status, message: message)
}
