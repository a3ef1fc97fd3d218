"""Bundles: manifest, layout and the only writer. docs/format.md describes them."""
