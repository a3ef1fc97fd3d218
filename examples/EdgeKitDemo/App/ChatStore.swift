#if canImport(SwiftUI)
import EdgeKit
import EdgeKitDemoCore
import EdgeKitTokenizers
import Foundation
import Observation
import os

/// What the views observe: a `Chat`, once a bundle is open, and the way to one.
@MainActor @Observable
final class ChatStore {
  private(set) var messages: [Message] = []
  private(set) var conversations: [Conversation] = []
  private(set) var current: Conversation.ID?
  private(set) var state = Chat.State.idle
  private(set) var samples: [Sample] = []
  private(set) var plan: EdgeModel.Plan?
  private(set) var name = ""
  private(set) var opening = false
  private(set) var failure: String?
  var settings = Settings(budget: 0)

  private var chat: Chat?
  private var scope: URL?
  private var watching: Task<Void, Never>?

  var isOpen: Bool { chat != nil }
  var advice: BudgetAdvice? { plan.map { BudgetAdvice(available: Self.available, plan: $0) } }

  /// Opens a bundle that the person chose, or that lies in the app's resources.
  func open(_ url: URL) async {
    opening = true
    defer { opening = false }
    failure = nil
    close()
    if url.startAccessingSecurityScopedResource() { scope = url }
    do {
      let tokenizer = try await BundleTokenizer(folder: url.appending(path: "tokenizer"))
      let plan = try EdgeModel.plan(bundle: url.path(percentEncoded: false))
      self.plan = plan
      settings = Settings(budget: BudgetAdvice(available: Self.available, plan: plan).suggested)
      name = url.deletingPathExtension().lastPathComponent
      let chat = try Chat(
        bundle: url.path(percentEncoded: false), tokenizer: tokenizer, settings: settings,
        folder: URL.applicationSupportDirectory.appending(path: "conversations/\(name)"))
      chat.changed = { [weak self] in self?.refresh() }
      self.chat = chat
      if let last = chat.conversations.all.first(where: { !$0.messages.isEmpty }) { chat.open(last.id) }
      refresh()
      watch()
    } catch {
      failure = "\(error)"
    }
  }

  func close() {
    watching?.cancel()
    chat?.stop()
    chat = nil
    messages = []
    conversations = []
    current = nil
    samples = []
    scope?.stopAccessingSecurityScopedResource()
    scope = nil
  }

  func send(_ prompt: String) { chat?.send(prompt) }
  func stop() { chat?.stop() }
  func apply() { chat?.apply(settings) }
  func begin() { chat?.begin() }
  func open(_ id: Conversation.ID) { chat?.open(id) }
  func rename(_ id: Conversation.ID, _ name: String) { chat?.rename(id, name) }
  func delete(_ id: Conversation.ID) { chat?.delete(id) }

  func memoryWarning() {
    guard let plan else { return }
    chat?.memoryWarning(floor: plan.floor)
    if let chat { settings = chat.settings }
  }

  private func refresh() {
    guard let chat else { return }
    messages = chat.messages
    conversations = chat.conversations.all
    current = chat.current.id
    state = chat.state
    samples = chat.metrics.samples
    if case .failed(let why) = chat.state { failure = why }
  }

  private func watch() {
    watching = Task { [weak self] in
      while !Task.isCancelled {
        try? await Task.sleep(for: .milliseconds(500))
        guard let self, let chat = self.chat else { return }
        if chat.state == .generating { await chat.look() }
      }
    }
  }

  /// Bytes that the app may still allocate.
  private static var available: UInt64 {
    #if os(iOS)
    return UInt64(os_proc_available_memory())
    #else
    return ProcessInfo.processInfo.physicalMemory / 2
    #endif
  }
}
#endif
