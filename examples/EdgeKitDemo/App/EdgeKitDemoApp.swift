#if canImport(SwiftUI)
import SwiftUI

@main
struct EdgeKitDemoApp: App {
  @State private var store = ChatStore()

  var body: some Scene {
    WindowGroup { ContentView().environment(store) }
  }
}
#endif
