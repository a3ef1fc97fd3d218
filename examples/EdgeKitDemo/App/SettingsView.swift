#if canImport(SwiftUI)
import EdgeKitDemoCore
import SwiftUI

struct SettingsView: View {
  @Environment(ChatStore.self) private var store
  @Environment(\.dismiss) private var dismiss

  var body: some View {
    @Bindable var store = store
    NavigationStack {
      Form {
        if let advice = store.advice {
          Section("Memory") {
            let budget = Binding(
              get: { Double(store.settings.budget) }, set: { store.settings.budget = UInt64($0) })
            Slider(value: budget, in: Double(advice.least)...Double(max(advice.most, advice.least + 1)))
            LabeledContent("Budget", value: Int64(store.settings.budget), format: .byteCount(style: .memory))
            LabeledContent("Least", value: Int64(advice.least), format: .byteCount(style: .memory))
          }
        }
        Section("System message") {
          TextField("What every conversation begins with", text: $store.settings.system, axis: .vertical)
        }
        Section("Sampling") {
          LabeledContent("Temperature") { Slider(value: $store.settings.temperature, in: 0...2) }
          LabeledContent("Top p") { Slider(value: $store.settings.topP, in: 0.05...1) }
          Stepper("Top k: \(store.settings.topK)", value: $store.settings.topK, in: 0...200, step: 10)
          Stepper("At most \(store.settings.maxTokens) tokens", value: $store.settings.maxTokens, in: 16...2048, step: 16)
        }
      }
      .navigationTitle("Settings")
      .toolbar {
        Button("Done") {
          store.apply()
          dismiss()
        }
      }
    }
  }
}
#endif
