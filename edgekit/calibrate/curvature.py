"""Hessians of both sides of a model's matrices, from gradients.

To second order, small errors E of a matrix [outputs, inputs] raise the KL divergence from the original by half of
e' F e, where F is the Fisher information: the mean of the gradients' outer products, with targets that the model draws
itself. A token's gradient is g x^T, for the gradient g of the output and the input x, and F is taken to be a Kronecker
product (K-FAC, arXiv 1503.05671, and YAQA, arXiv 2505.22988): of E[|g|^2 x x^T] and E[|x|^2 g g^T] over its trace.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.bundle.layout import PartPlan
from edgekit.errors import ConvertError
from edgekit.solvers import Statistics

F32 = npt.NDArray[np.float32]
MOST_OUTPUTS = 8192  # beyond, outputs are taken to matter alike: their Hessian would outgrow the matrix
Note = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Curvature:
    """What a backward pass over calibration text found.

    Attributes:
        folder: a file for each part, by its name in the bundle: `inputs` and, if they are not too many, `outputs`.
        order: neurons of a matrix in the order of the bundle to be written, by the name of the order.
    """

    folder: Path
    order: Callable[[str], npt.NDArray[np.int64]]

    def of(self, part: PartPlan) -> Statistics:
        """The statistics of a part; without Hessians if no gradient reached it."""
        from safetensors.numpy import load_file

        file = part_file(self.folder, part.name)
        if not file.is_file():
            return Statistics(None, part.by_column)
        found = load_file(file)
        inputs, outputs = found["inputs"], found.get("outputs")
        if not inputs.any():
            return Statistics(None, part.by_column)
        if part.order is not None:
            order = self.order(part.order)
            if part.by_column:
                inputs = inputs[np.ix_(order, order)]
            elif outputs is not None:
                outputs = outputs[np.ix_(order, order)]
        return Statistics(inputs, part.by_column, outputs)


def part_file(folder: Path, part: str) -> Path:
    """Where a part's Hessians are."""
    return folder / f"{part.replace(os.sep, '_')}.safetensors"


def check_torch() -> None:
    """Refuses a job that needs torch where it is not installed.

    Raises:
        ConvertError: it is missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConvertError("--gradients needs torch: pip install 'edgekit[train]'")


def read_curvature(
    plain: Path, runs: Sequence[Sequence[int]], folder: Path, order: Callable[[str], npt.NDArray[np.int64]], note: Note
) -> Curvature:
    """What gradients say of a model on calibration text: measured now, or by an interrupted call.

    Args:
        plain: the model, in a bundle of plain numbers.
        runs: token ids; each run is a text of its own.
        folder: for the result, which is whole when it is there.
        order: see `Curvature`.
        note: called with what is being done, and how far it is.

    Raises:
        ConvertError: torch is missing, or the memory does not hold a stage of the model.
    """
    check_torch()
    if not folder.is_dir():
        from edgekit.train.gradients import measure

        partial = folder.with_name(folder.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        measure(plain, runs, partial, note)
        partial.rename(folder)
    return Curvature(folder, order)
