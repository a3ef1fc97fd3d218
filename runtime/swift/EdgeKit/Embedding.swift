import CEdgeKit

extension EdgeSession {
  /// Vectors of texts, pooled and normalized as the bundle says; of models that make vectors (`edgekit embed` in Python).
  /// What the session held is forgotten.
  ///
  /// - Parameter texts: token ids of each text, with what the tokenizer puts around it (`encode(_:special:)` with true),
  ///   within the context.
  /// - Returns: for each text `hiddenSize` values.
  public func embed(_ texts: [[Int32]]) async throws -> [[Float]] {
    try await alone { worker in
      try texts.map { tokens in try worker.embed(tokens).vector }
    }
  }

  /// How well documents answer a query, as a reranker's head says, before a sigmoid. Each pair has the token ids of query
  /// and document as the tokenizer puts them together, with the type of each token (0: query, 1: document).
  public func scores(_ pairs: [(tokens: [Int32], types: [UInt8])]) async throws -> [Float] {
    try await alone { worker in
      try pairs.map { pair in try worker.embed(pair.tokens, pair.types).score }
    }
  }
}

extension Worker {
  func embed(_ tokens: [Int32], _ types: [UInt8]? = nil) throws -> (vector: [Float], score: Float) {
    if let types, types.count != tokens.count {
      throw EdgeError(.invalidArgument, "\(tokens.count) tokens have \(types.count) types; give one for each")
    }
    var vector = [Float](repeating: 0, count: model.hiddenSize)
    var score: Float = 0
    try tokens.withUnsafeBufferPointer { tokens in
      try vector.withUnsafeMutableBufferPointer { vector in
        try (types ?? []).withUnsafeBufferPointer { kinds in
          var text = edgekit_embedding()
          text.struct_size = UInt32(MemoryLayout<edgekit_embedding>.size)
          text.count = UInt32(tokens.count)
          text.tokens = tokens.baseAddress
          text.types = types == nil ? nil : kinds.baseAddress
          text.vector = vector.baseAddress
          try check { error in edgekit_session_embed(handle, &text, 1, error) }
          score = text.score
        }
      }
    }
    return (vector, score)
  }
}
