"""Exporters to other formats, imported as `edgekit.converters`."""
