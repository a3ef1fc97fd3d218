#if canImport(SwiftUI)
import EdgeKitDemoCore
import SwiftUI

struct ChatView: View {
  @Environment(ChatStore.self) private var store
  @State private var prompt = ""

  private var generating: Bool { store.state == .generating }

  var body: some View {
    VStack(spacing: 0) {
      ScrollViewReader { reader in
        ScrollView {
          LazyVStack(alignment: .leading, spacing: 12) {
            ForEach(store.messages) { MessageView(message: $0).id($0.id) }
          }
          .padding()
        }
        .onChange(of: store.messages.last?.text) { reader.scrollTo(store.messages.last?.id, anchor: .bottom) }
      }
      Divider()
      HStack {
        TextField("Once upon a time", text: $prompt, axis: .vertical).lineLimit(1...4).onSubmit(send)
        if generating {
          Button("Stop", systemImage: "stop.fill") { store.stop() }
        } else {
          Button("Send", systemImage: "paperplane.fill", action: send).disabled(prompt.isEmpty)
        }
      }
      .labelStyle(.iconOnly)
      .padding()
      if let last = store.samples.last {
        Text("\(last.tokensPerSecond, format: .number.precision(.fractionLength(1))) tok/s")
          .font(.caption).monospacedDigit().foregroundStyle(.secondary)
      }
    }
  }

  private func send() {
    guard !prompt.isEmpty, !generating else { return }
    store.send(prompt)
    prompt = ""
  }
}

private struct MessageView: View {
  let message: Message

  var body: some View {
    let mine = message.author == .person
    Text(message.text.isEmpty ? "…" : message.text)
      .textSelection(.enabled)
      .padding(10)
      .background(mine ? Color.accentColor.opacity(0.15) : Color.secondary.opacity(0.1), in: .rect(cornerRadius: 12))
      .frame(maxWidth: .infinity, alignment: mine ? .trailing : .leading)
      .accessibilityLabel(mine ? "You: \(message.text)" : "Model: \(message.text)")
  }
}
#endif
