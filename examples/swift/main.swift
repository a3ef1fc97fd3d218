// edgekit-swift BUNDLE BUDGET_MIB TOKENS ID [ID ...] [--seed N] [--draft N]: token ids in, token ids out. Greedy, or with a seed
// sampled as `edgekit run` does by default; --draft: most tokens drafted from the text so far for one pass.
import EdgeKit
import Foundation

func fail(_ message: String, _ status: Int32) -> Never {
  FileHandle.standardError.write(Data((message + "\n").utf8))
  exit(status)
}

var arguments = CommandLine.arguments
var sampling = Sampling.greedy
if let at = arguments.firstIndex(of: "--seed") {
  guard at + 1 < arguments.count, let seed = UInt64(arguments[at + 1]) else { fail("--seed takes a whole number", 2) }
  sampling = Sampling(seed: seed)
  arguments.removeSubrange(at...(at + 1))
}
var draftTokens: UInt32 = 0
if let at = arguments.firstIndex(of: "--draft") {
  guard at + 1 < arguments.count, let most = UInt32(arguments[at + 1]) else { fail("--draft takes a whole number", 2) }
  draftTokens = most
  arguments.removeSubrange(at...(at + 1))
}
guard arguments.count >= 5, let budget = UInt64(arguments[2]), let most = Int(arguments[3]) else {
  fail("usage: edgekit-swift BUNDLE BUDGET_MIB TOKENS ID [ID ...] [--seed N] [--draft N]", 2)
}
let prompt = arguments[4...].map { Int32($0) }
guard !prompt.contains(nil) else { fail("token ids are whole numbers", 2) }
let ids = prompt.compactMap { $0 }

do {
  let options = EdgeModel.Options(budget: budget << 20, context: UInt32(ids.count + most), draftTokens: draftTokens)
  let session = try EdgeSession(EdgeModel(bundle: arguments[1], options: options))
  for try await token in session.generate(ids, maxTokens: most, sampling: sampling) { print(token, terminator: " ") }
  print()
  let s = await session.statistics()
  FileHandle.standardError.write(
    Data(String(format: "%.1f tok/s, %.1f MiB at most\n", s.tokensPerSecond, Double(s.peakMemory) / 1048576).utf8))
} catch {
  fail("\(error)", 1)
}
