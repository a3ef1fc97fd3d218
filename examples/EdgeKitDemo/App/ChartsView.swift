#if canImport(SwiftUI)
import Charts
import EdgeKitDemoCore
import SwiftUI

/// Speed, memory, bytes per token and window hits, live.
struct ChartsView: View {
  @Environment(ChatStore.self) private var store

  var body: some View {
    List {
      chart("Tokens per second") { $0.tokensPerSecond }
      chart("Memory (MiB)") { Double($0.memory) / 1_048_576 }
      chart("Read per token (KiB)") { Double($0.bytesPerToken) / 1024 }
      chart("Units found in the window (%)") { ($0.windowHits ?? 1) * 100 }
    }
    .navigationTitle("Live")
    .frame(minWidth: 320, minHeight: 480)
  }

  private func chart(_ title: String, _ value: @escaping (Sample) -> Double) -> some View {
    Section(title) {
      Chart(store.samples) { LineMark(x: .value("Sample", $0.id), y: .value(title, value($0))) }
        .chartXAxis(.hidden)
        .frame(height: 120)
    }
  }
}
#endif
