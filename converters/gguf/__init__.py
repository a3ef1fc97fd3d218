"""Exporting to GGUF, the format of llama.cpp."""
