import Foundation

/// Follows a JSON text of a shape, byte by byte. A text has a space behind ':' and ',' at will, and no other white space,
/// so that it cannot go on forever without saying anything.
struct JSONMachine: Hashable, Sendable {
  /// What is expected next, the nearest last.
  private var expected: [Part]

  private enum Part: Hashable, Sendable {
    case value(JSONShape)
    case oneOf([[UInt8]])  // one of these; an empty one is at its end
    case text, escape, hex(Int)  // within a string, behind a backslash, so many digits of \u
    case number(Number, isInteger: Bool)
    case space
    case items(JSONShape, count: Int, least: Int, most: Int)  // behind '[' or an item
    case members([JSONShape.Property], behind: Place)  // those that may follow
    case key([JSONShape.Property], alive: [Int], at: Int)  // within a name that one of these has
    case anyMembers(behind: Place)
    case colon
  }

  private enum Place: Hashable, Sendable { case brace, member, comma }

  private enum Number: Hashable, Sendable { case sign, zero, digits, point, fraction, e, eSign, exponent }

  static let deepest = 64  // arrays and objects within each other where the shape does not say

  init(_ shape: JSONShape) { expected = [.value(shape), .space] }

  /// Whether the text may end here.
  var isWhole: Bool { expected.allSatisfy(Self.mayEnd) }

  /// Whether nothing can follow.
  var isAtEnd: Bool { expected.isEmpty }

  private static func mayEnd(_ part: Part) -> Bool {
    switch part {
    case .number(let at, _): at == .zero || at == .digits || at == .fraction || at == .exponent
    case .oneOf(let all): all.contains([])
    case .space: true
    default: false
    }
  }

  /// Takes the next byte; false where it cannot come, after which the machine is of no use.
  mutating func take(_ byte: UInt8) -> Bool {
    while let part = expected.popLast() {
      if step(part, byte) { return true }
      guard Self.mayEnd(part) else { return false }
    }
    return false
  }

  private mutating func push(_ parts: Part...) { expected += parts.reversed() }

  private mutating func step(_ part: Part, _ byte: UInt8) -> Bool {
    switch part {
    case .value(let shape): return begin(shape, byte)
    case .oneOf(let all):
      let left = all.compactMap { $0.first == byte ? Array($0.dropFirst()) : nil }
      if left.contains(where: { !$0.isEmpty }) { push(.oneOf(left)) }
      return !left.isEmpty
    case .text, .escape, .hex: return string(part, byte)
    case .number(let at, let isInteger):
      guard let next = Self.number(at, byte), !isInteger || next == .zero || next == .digits else { return false }
      push(.number(next, isInteger: isInteger))
      return true
    case .space: return byte == UInt8(ascii: " ")
    case .colon: return byte == UInt8(ascii: ":")
    case .items(let shape, let count, let least, let most): return item(shape, count, least, most, byte)
    case .members(let left, let place): return member(left, place, byte)
    case .key(let left, let alive, let at): return name(left, alive, at, byte)
    case .anyMembers(let place): return anyMember(place, byte)
    }
  }

  // --- values ------------------------------------------------------------------------------------

  private mutating func begin(_ shape: JSONShape, _ byte: UInt8) -> Bool {
    switch shape {
    case .any:
      let isDeep = expected.count > Self.deepest
      let shapes: [JSONShape] = [.string, .number, .values(["true", "false", "null"])]
      return begin(.either(isDeep ? shapes : shapes + [.array(.any), .anyObject]), byte)
    case .boolean: return step(.oneOf([Array("true".utf8), Array("false".utf8)]), byte)
    case .integer: return step(.number(.sign, isInteger: true), byte) || minus(byte, isInteger: true)
    case .number: return step(.number(.sign, isInteger: false), byte) || minus(byte, isInteger: false)
    case .string:
      guard byte == UInt8(ascii: "\"") else { return false }
      push(.text)
      return true
    case .values(let texts): return step(.oneOf(texts.map { Array($0.utf8) }), byte)
    case .array(let items, let least, let most):
      guard byte == UInt8(ascii: "[") else { return false }
      push(.items(items, count: 0, least: least, most: most))
      return true
    case .object(let members):
      guard byte == UInt8(ascii: "{") else { return false }
      push(.members(members, behind: .brace))
      return true
    case .anyObject:
      guard byte == UInt8(ascii: "{") else { return false }
      push(.anyMembers(behind: .brace))
      return true
    case .either(let shapes): return shapes.contains { begin($0, byte) }
    }
  }

  private mutating func minus(_ byte: UInt8, isInteger: Bool) -> Bool {
    guard byte == UInt8(ascii: "-") else { return false }
    push(.number(.sign, isInteger: isInteger))
    return true
  }

  private static func number(_ at: Number, _ byte: UInt8) -> Number? {
    switch (at, byte) {
    case (.sign, UInt8(ascii: "0")): .zero
    case (.sign, UInt8(ascii: "1")...UInt8(ascii: "9")): .digits
    case (.digits, UInt8(ascii: "0")...UInt8(ascii: "9")): .digits
    case (.zero, UInt8(ascii: ".")), (.digits, UInt8(ascii: ".")): .point
    case (.point, UInt8(ascii: "0")...UInt8(ascii: "9")), (.fraction, UInt8(ascii: "0")...UInt8(ascii: "9")): .fraction
    case (.zero, UInt8(ascii: "e")), (.digits, UInt8(ascii: "e")), (.fraction, UInt8(ascii: "e")): .e
    case (.zero, UInt8(ascii: "E")), (.digits, UInt8(ascii: "E")), (.fraction, UInt8(ascii: "E")): .e
    case (.e, UInt8(ascii: "+")), (.e, UInt8(ascii: "-")): .eSign
    case (.e, UInt8(ascii: "0")...UInt8(ascii: "9")), (.eSign, UInt8(ascii: "0")...UInt8(ascii: "9")),
      (.exponent, UInt8(ascii: "0")...UInt8(ascii: "9")):
      .exponent
    default: nil
    }
  }

  private mutating func string(_ part: Part, _ byte: UInt8) -> Bool {
    switch part {
    case .escape:
      if byte == UInt8(ascii: "u") {
        push(.hex(4), .text)
        return true
      }
      guard "\"\\/bfnrt".utf8.contains(byte) else { return false }
      push(.text)
    case .hex(let left):
      let isDigit = (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
      // Not d and D first, which would be half of a character beyond the basic plane.
      let letters = left == 4 ? "abcefABCEF" : "abcdefABCDEF"
      guard isDigit || letters.utf8.contains(byte) else { return false }
      if left > 1 { push(.hex(left - 1)) }
    default:
      if byte == UInt8(ascii: "\"") { return true }
      guard byte >= 0x20 else { return false }
      push(byte == UInt8(ascii: "\\") ? .escape : .text)
    }
    return true
  }

  // --- arrays and objects ---------------------------------------------------------------------------

  private mutating func item(_ shape: JSONShape, _ count: Int, _ least: Int, _ most: Int, _ byte: UInt8) -> Bool {
    if byte == UInt8(ascii: "]") { return count >= least }
    guard count < most else { return false }
    let next = Part.items(shape, count: most == .max ? min(count + 1, max(least, 1)) : count + 1, least: least, most: most)
    if count > 0 {
      guard byte == UInt8(ascii: ",") else { return false }
      push(.space, .value(shape), next)
      return true
    }
    push(next)
    return begin(shape, byte)
  }

  private mutating func member(_ left: [JSONShape.Property], _ place: Place, _ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "}"): return place != .comma && !left.contains(where: \.isRequired)
    case UInt8(ascii: ",") where place == .member && !left.isEmpty:
      push(.space, .members(left, behind: .comma))
      return true
    case UInt8(ascii: "\"") where place != .member && !left.isEmpty:
      let last = left.firstIndex(where: \.isRequired) ?? left.count - 1  // members that are required are not passed over
      push(.key(left, alive: Array(0...last), at: 1))
      return true
    default: return false
    }
  }

  private mutating func name(_ left: [JSONShape.Property], _ alive: [Int], _ at: Int, _ byte: UInt8) -> Bool {
    let names = alive.map { ($0, Array(JSONText.quoted(left[$0].name).utf8)) }.filter { $0.1[at] == byte }
    guard let (found, name) = names.first else { return false }
    if name.count == at + 1 {
      let rest = Array(left[(found + 1)...])
      push(.colon, .space, .value(left[found].shape), .members(rest, behind: .member))
    } else {
      push(.key(left, alive: names.map(\.0), at: at + 1))
    }
    return true
  }

  private mutating func anyMember(_ place: Place, _ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "}"): return place != .comma
    case UInt8(ascii: ",") where place == .member: push(.space, .anyMembers(behind: .comma))
    case UInt8(ascii: "\"") where place != .member:
      push(.text, .colon, .space, .value(.any), .anyMembers(behind: .member))
    default: return false
    }
    return true
  }
}

extension JSONShape {
  /// Bytes that values of the shape begin with.
  var beginnings: Set<UInt8> {
    switch self {
    case .any: Set(JSONShape.either([.string, .number, .boolean, .values(["null"]), .array(.any), .anyObject]).beginnings)
    case .boolean: Set("tf".utf8)
    case .integer, .number: Set("-0123456789".utf8)
    case .string: Set("\"".utf8)
    case .values(let texts): Set(texts.compactMap(\.utf8.first))
    case .array: Set("[".utf8)
    case .object, .anyObject: Set("{".utf8)
    case .either(let shapes): shapes.reduce(into: []) { $0.formUnion($1.beginnings) }
    }
  }

  /// Refuses what `JSONMachine` cannot follow.
  func check() throws(EdgeError) {
    switch self {
    case .either(let shapes):
      var seen = Set<UInt8>()
      for shape in shapes {
        guard seen.isDisjoint(with: shape.beginnings) else {
          throw EdgeError(.unsupported, "the schema has alternatives that begin alike; let each begin with another character")
        }
        seen.formUnion(shape.beginnings)
        try shape.check()
      }
    case .array(let items, _, _): try items.check()
    case .object(let members): for member in members { try member.shape.check() }
    case .values(let texts):
      for text in texts {
        guard !text.isEmpty, (try? JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed)) != nil
        else { throw EdgeError(.invalidArgument, "'\(text)' is no JSON value") }
      }
    default: break
    }
  }
}
