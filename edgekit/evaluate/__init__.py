"""Quality of a bundle on held-out text."""

from edgekit.evaluate.comparison import Comparison, compare
from edgekit.evaluate.perplexity import perplexity

__all__ = ["Comparison", "compare", "perplexity"]
