"""The `edgekit` command: a lazy click group, one thin file per command."""

from edgekit.cli.main import main

__all__ = ["main"]
