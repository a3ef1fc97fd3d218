// swift-tools-version: 6.0
// A package of its own, so that EdgeKit depends on nothing and builds offline.
import PackageDescription

let package = Package(
  name: "EdgeKitTokenizers",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [.library(name: "EdgeKitTokenizers", targets: ["EdgeKitTokenizers"])],
  dependencies: [
    .package(name: "EdgeKit", path: "../.."),
    .package(url: "https://github.com/huggingface/swift-transformers", from: "1.0.0"),
  ],
  targets: [
    .target(
      name: "EdgeKitTokenizers",
      dependencies: [
        .product(name: "EdgeKit", package: "EdgeKit"),
        .product(name: "Tokenizers", package: "swift-transformers"),
      ])
  ]
)
