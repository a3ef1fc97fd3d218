"""The Python face of the C ABI."""
