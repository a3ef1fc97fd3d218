"""Solvers by name, in the order in which they are preferred: nearest, kmeans, search, gptq, viterbi, ldlq, ldlq8. A
new one is a new file and a line here."""

from edgekit.solvers import nearest  # isort: skip
from edgekit.solvers import kmeans  # isort: skip
from edgekit.solvers import search  # isort: skip
from edgekit.solvers import gptq  # isort: skip
from edgekit.solvers import viterbi  # isort: skip
from edgekit.solvers.base import (
    NOTHING,
    Encoded,
    Made,
    Solver,
    Statistics,
    best_with_text,
    encode,
    solver_for,
    solver_names,
)

__all__ = [
    "NOTHING", "Encoded", "Made", "Solver", "Statistics", "best_with_text", "encode", "gptq", "kmeans", "nearest",
    "search", "solver_for", "solver_names", "viterbi",
]  # fmt: skip
