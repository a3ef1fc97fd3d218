import Foundation

/// What a JSON value must look like.
public indirect enum JSONShape: Sendable, Hashable {
  /// A member of an object.
  public struct Property: Sendable, Hashable {
    public let name: String
    public let shape: JSONShape
    public let isRequired: Bool

    public init(_ name: String, _ shape: JSONShape, required: Bool = true) {
      self.name = name
      self.shape = shape
      isRequired = required
    }
  }

  case any, boolean, integer, number, string
  /// One of some values, each as JSON text.
  case values([String])
  case array(JSONShape, least: Int = 0, most: Int = .max)
  /// Members in this order, those that are not required left out at will, and no others.
  case object([Property])
  /// An object with any members.
  case anyObject
  /// One of some shapes, which the first character tells apart.
  case either([JSONShape])

  /// One of some texts.
  public static func choice(_ texts: [String]) -> JSONShape { .values(texts.map(JSONText.quoted)) }

  /// The shape of a JSON schema. Members come in the order of "required", then the others by name, as a parsed object has
  /// no order. Throws `.unsupported` for keywords other than type, properties, required, items, minItems, maxItems, enum,
  /// const, anyOf, oneOf, additionalProperties and those that only describe.
  public init(schema text: String) throws(EdgeError) {
    guard let schema = try? JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed) else {
      throw EdgeError(.invalidArgument, "the schema is not JSON")
    }
    self = try SchemaReader.shape(schema, depth: 0)
  }
}

/// JSON texts of values.
enum JSONText {
  static func quoted(_ text: String) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\u{00}"..."\u{1F}": out += String(format: "\\u%04x", scalar.value)
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out + "\""
  }

  static func written(_ value: Any) -> String? {
    if let text = value as? String { return quoted(text) }
    let data = try? JSONSerialization.data(withJSONObject: value, options: [.fragmentsAllowed, .sortedKeys])
    return data.map { String(decoding: $0, as: UTF8.self) }
  }
}

/// Reads JSON schemas.
private enum SchemaReader {
  static let describing: Set<String> = [
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "additionalProperties",
  ]
  static let known: Set<String> = [
    "type", "properties", "required", "items", "minItems", "maxItems", "enum", "const", "anyOf", "oneOf",
  ]
  static let deepest = 64

  static func shape(_ schema: Any, depth: Int) throws(EdgeError) -> JSONShape {
    guard depth < deepest else { throw EdgeError(.unsupported, "the schema is nested deeper than \(deepest) levels") }
    if let allowed = schema as? Bool, allowed { return .any }
    guard let schema = schema as? [String: Any] else {
      throw EdgeError(.invalidArgument, "a schema within the schema is no object")
    }
    if let other = schema.keys.sorted().first(where: { !known.contains($0) && !describing.contains($0) }) {
      throw EdgeError(.unsupported, "the schema has the keyword '\(other)', which is not supported in Swift; leave it out")
    }
    if let values = schema["enum"] as? [Any] ?? schema["const"].map({ [$0] }) {
      let texts = values.compactMap(JSONText.written)
      guard !texts.isEmpty, texts.count == values.count else {
        throw EdgeError(.invalidArgument, "the schema has an enum without values")
      }
      return .values(texts)
    }
    if let choices = (schema["anyOf"] ?? schema["oneOf"]) as? [Any] {
      return .either(try shapes(choices, depth))
    }
    if let names = schema["type"] as? [String] {
      return .either(try shapes(names.map { name in schema.merging(["type": name]) { _, new in new } }, depth))
    }
    return try typed(schema, depth)
  }

  private static func shapes(_ all: [Any], _ depth: Int) throws(EdgeError) -> [JSONShape] {
    var out: [JSONShape] = []
    for one in all { out.append(try shape(one, depth: depth + 1)) }
    return out
  }

  private static func typed(_ schema: [String: Any], _ depth: Int) throws(EdgeError) -> JSONShape {
    switch schema["type"] as? String {
    case "object": return try object(schema, depth)
    case "array":
      let items = try schema["items"].map { items throws(EdgeError) in try shape(items, depth: depth + 1) } ?? .any
      let least = schema["minItems"] as? Int ?? 0, most = schema["maxItems"] as? Int ?? .max
      guard 0 <= least, least <= most else {
        throw EdgeError(.invalidArgument, "the schema has an array of at least \(least) and at most \(most) items")
      }
      return .array(items, least: least, most: most)
    case "string": return .string
    case "integer": return .integer
    case "number": return .number
    case "boolean": return .boolean
    case "null": return .values(["null"])
    case nil: return schema["properties"] == nil ? .any : try object(schema, depth)
    case let other?: throw EdgeError(.invalidArgument, "the schema has the type '\(other)', which JSON does not have")
    }
  }

  private static func object(_ schema: [String: Any], _ depth: Int) throws(EdgeError) -> JSONShape {
    guard let members = schema["properties"] as? [String: Any] else { return .anyObject }
    let required = schema["required"] as? [String] ?? []
    if let missing = required.first(where: { members[$0] == nil }) {
      throw EdgeError(.unsupported, "the schema requires '\(missing)' and does not describe it; add it to its properties")
    }
    let order = required + members.keys.filter { !required.contains($0) }.sorted()
    var out: [JSONShape.Property] = []
    for name in order {
      out.append(.init(name, try shape(members[name]!, depth: depth + 1), required: required.contains(name)))
    }
    return .object(out)
  }
}
