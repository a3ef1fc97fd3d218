"""ONNX graphs, for onnxruntime and onnxruntime-genai."""
