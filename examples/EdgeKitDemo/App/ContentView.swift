#if canImport(SwiftUI)
import EdgeKitDemoCore
import SwiftUI
import UniformTypeIdentifiers

struct ContentView: View {
  @Environment(ChatStore.self) private var store
  @State private var choosing = false
  @State private var showsSettings = false
  @State private var showsCharts = false

  var body: some View {
    NavigationSplitView {
      ConversationsView().navigationTitle(store.isOpen ? store.name : "EdgeKit")
    } detail: {
      Group {
        if store.isOpen { ChatView() } else { welcome }
      }
      .toolbar {
        Button("Open", systemImage: "folder") { choosing = true }
        Button("Charts", systemImage: "chart.xyaxis.line") { showsCharts = true }.disabled(!store.isOpen)
        Button("Settings", systemImage: "slider.horizontal.3") { showsSettings = true }.disabled(!store.isOpen)
      }
    }
    .fileImporter(isPresented: $choosing, allowedContentTypes: [.folder]) { chosen in
      guard case .success(let url) = chosen else { return }
      Task { await store.open(url) }
    }
    .sheet(isPresented: $showsSettings) { SettingsView() }
    .sheet(isPresented: $showsCharts) { ChartsView() }
    .overlay { if store.opening { ProgressView("Opening the bundle").padding().background(.regularMaterial) } }
    .safeAreaInset(edge: .top) {
      if let failure = store.failure { Text(failure).font(.footnote).foregroundStyle(.red).padding(.horizontal) }
    }
    #if os(iOS)
    .onReceive(NotificationCenter.default.publisher(for: UIApplication.didReceiveMemoryWarningNotification)) { _ in
      store.memoryWarning()
    }
    #endif
  }

  private var welcome: some View {
    ContentUnavailableView {
      Label("No bundle is open", systemImage: "shippingbox")
    } description: {
      Text("Choose a folder NAME.edgekit that 'edgekit convert' made.")
    } actions: {
      Button("Choose a bundle") { choosing = true }.buttonStyle(.borderedProminent)
      if let demo = Bundle.main.url(forResource: "demo", withExtension: "edgekit") {
        Button("Use the demo model") { Task { await store.open(demo) } }
      }
    }
  }
}
#endif
