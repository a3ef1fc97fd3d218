"""Graphs that are not language models: any ONNX graph, any torch module."""
