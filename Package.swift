// swift-tools-version: 6.0
// EdgeKit for Swift: the runtime's C++ sources are built directly, nothing is prebuilt or fetched.
import PackageDescription

let package = Package(
  name: "EdgeKit",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [
    .library(name: "EdgeKit", targets: ["EdgeKit"]),
    .library(name: "EdgeKitDemoCore", targets: ["EdgeKitDemoCore"]),
    .executable(name: "edgekit-swift", targets: ["edgekit-swift"]),
  ],
  targets: [
    .target(
      name: "CEdgeKit",
      path: "runtime",
      exclude: [
        "tests", "bench", "swift", "onnx", "src/kernels/table.inc", "src/kernels/kernels.inc", "src/kernels/x86_codes.inc",
        "src/kernels/simd.inc", "src/kernels/simd_cache.inc", "src/kernels/simd_rows.inc", "src/kernels/integer.inc",
        "src/kernels/integer_entries.inc",
        "src/kernels/integer_table.inc", "src/kernels/x86_integer.inc", "src/kernels/x86_fours.inc", "src/kernels/x86_lanes.inc", "src/kernels/portable/planes.inc",
        "src/kernels/neon/codes.inc", "src/kernels/neon/neon_integer.inc", "src/kernels/trellis.inc", "src/encode/steps.inc",
      ],
      sources: ["src"],
      publicHeadersPath: "include",
      cxxSettings: [
        .headerSearchPath("src"),
        .define("EDGEKIT_VERSION_STRING", to: "\"0.1.0\""),
      ]
    ),
    .target(name: "EdgeKit", dependencies: ["CEdgeKit"], path: "runtime/swift/EdgeKit"),
    .executableTarget(name: "edgekit-swift", dependencies: ["EdgeKit"], path: "examples/swift"),
    .target(name: "EdgeKitDemoCore", dependencies: ["EdgeKit"], path: "examples/EdgeKitDemo/Core"),
    .testTarget(
      name: "EdgeKitDemoCoreTests", dependencies: ["EdgeKitDemoCore"], path: "examples/EdgeKitDemo/CoreTests"),
    .testTarget(name: "EdgeKitTests", dependencies: ["EdgeKit"], path: "runtime/swift/Tests/EdgeKitTests"),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)
