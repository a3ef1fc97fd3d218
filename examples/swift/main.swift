// edgekit-swift BUNDLE BUDGET_MIB TOKENS ID [ID ...]: token ids in, token ids out, as examples/c/generate.c.
import EdgeKit
import Foundation

func fail(_ message: String, _ status: Int32) -> Never {
  FileHandle.standardError.write(Data((message + "\n").utf8))
  exit(status)
}


let arguments = CommandLine.arguments
guard arguments.count >= 5, let budget = UInt64(arguments[2]), let most = Int(arguments[3]) else {
  fail("usage: edgekit-swift BUNDLE BUDGET_MIB TOKENS ID [ID ...]", 2)
}
let prompt = arguments[4...].map { Int32($0) }
guard !prompt.contains(nil) else { fail("token ids are whole numbers", 2) }
let ids = prompt.compactMap { $0 }

do {
  let options = EdgeModel.Options(budget: budget << 20, context: UInt32(ids.count + most))
  let session = try EdgeSession(EdgeModel(bundle: arguments[1], options: options))
  for try await token in session.generate(ids, maxTokens: most, sampling: .greedy) { print(token, terminator: " ") }
  print()
  let s = await session.statistics()
  FileHandle.standardError.write(
    Data(String(format: "%.1f tok/s, %.1f MiB at most\n", s.tokensPerSecond, Double(s.peakMemory) / 1048576).utf8))
} catch {
  fail("\(error)", 1)
}
