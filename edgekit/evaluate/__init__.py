"""Quality of a bundle on held-out text."""

from edgekit.evaluate.perplexity import Perplexity, perplexity

__all__ = ["Perplexity", "perplexity"]
