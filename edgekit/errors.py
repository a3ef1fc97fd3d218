"""The one family of errors that edgekit raises on purpose.

Each message is one line that says what is wrong, where, and what to do; the CLI prints it as it is.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Base of all errors a user can cause or cure."""


class CheckpointError(EdgekitError):
    """A checkpoint is missing, damaged, hostile, or of a kind that edgekit does not read."""


class UnsupportedModelError(EdgekitError):
    """A well-formed model that no architecture description covers."""


class RecipeError(EdgekitError):
    """A recipe names something that does not exist or cannot apply."""


class BundleError(EdgekitError):
    """A bundle is missing, damaged, or written by another version."""


class ConvertError(EdgekitError):
    """A conversion could not start or finish; what was done is kept for a resume."""


class MissingPackageError(ConvertError):
    """An extra of edgekit is not installed; the message names the pip command."""


class BudgetError(EdgekitError):
    """The memory budget is below what the model needs at least."""


class RuntimeFailure(EdgekitError):
    """The native runtime reported an error."""


class ContextFullError(RuntimeFailure):
    """The context has no room for that many tokens."""


class GrammarError(RuntimeFailure):
    """A grammar that is wrong, too large, or that no text can follow."""
