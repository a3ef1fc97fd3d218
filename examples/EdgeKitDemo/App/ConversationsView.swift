#if canImport(SwiftUI)
import EdgeKitDemoCore
import SwiftUI

/// The list of conversations: choose, begin, rename, delete.
struct ConversationsView: View {
  @Environment(ChatStore.self) private var store
  @State private var renaming: Conversation?
  @State private var name = ""

  var body: some View {
    let chosen = Binding(get: { store.current }, set: { if let id = $0 { store.open(id) } })
    List(store.conversations, selection: chosen) { conversation in
      Text(conversation.title)
        .lineLimit(1)
        .tag(conversation.id)
        .contextMenu {
          Button("Rename", systemImage: "pencil") {
            name = conversation.title
            renaming = conversation
          }
          Button("Delete", systemImage: "trash", role: .destructive) { store.delete(conversation.id) }
        }
        .swipeActions { Button("Delete", role: .destructive) { store.delete(conversation.id) } }
    }
    .toolbar { Button("New conversation", systemImage: "square.and.pencil") { store.begin() }.disabled(!store.isOpen) }
    .alert("Rename the conversation", isPresented: Binding(get: { renaming != nil }, set: { if !$0 { renaming = nil } })) {
      TextField("Name", text: $name)
      Button("Rename") { if let renaming { store.rename(renaming.id, name) } }
      Button("Cancel", role: .cancel) {}
    }
  }
}
#endif
