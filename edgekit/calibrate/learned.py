"""What `convert` learns from calibration text: first what `calibrate` finds, then the Hessians that solvers ask for.

Both read the text with a plain bundle of the model, which lies in the workspace until the conversion is over.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.arch.spec import Model
from edgekit.bundle.layout import Layout, plan_layout
from edgekit.bundle.source import read_order
from edgekit.bundle.writer import StatisticsOf, Writer
from edgekit.calibrate import activity
from edgekit.calibrate.calibration import Calibration, Note, calibrate
from edgekit.calibrate.curvature import read_curvature
from edgekit.calibrate.hessians import Hessians
from edgekit.checkpoint import Checkpoint
from edgekit.generate.tokenizer import Tokenizer
from edgekit.jobs import Threads
from edgekit.recipe import Recipe, load_recipe
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options

RAM = 256 << 20  # of the runtime while it reads the text; weights beyond it are streamed
BATCH = 256  # tokens of one pass


@dataclass
class Learned:
    """The calibration of one conversion.

    Attributes:
        checkpoint: the source.
        model: its architecture.
        recipe: of the bundle to be made.
        folder: for what is kept meanwhile.
        settings: the text, and what to learn.
        key: changes when any of that does.
        curvature: where gradients' Hessians are kept, if they are wanted.
    """

    checkpoint: Checkpoint
    model: Model
    recipe: Recipe
    folder: Path
    settings: Calibration
    key: str
    curvature: Path

    @property
    def _plain(self) -> Path:
        return self.folder / "plain.edgekit"

    def read(self, threads: int, note: Note) -> Path:
        """The calibration's file: of an interrupted call with the same key, or made now."""
        self.note = note
        done = self.folder / f"{self.key}.safetensors"
        if not done.is_file() and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        if not done.is_file() or self.recipe.needs_text():
            writer = Writer(self.checkpoint, self.model, self._layout(), self._plain, {}, self.key)
            writer.run(Threads(threads), lambda d, t: note("preparing", d, t))
        if not done.is_file():
            calibrate(self._plain, self.model, self.settings, done, self._ram(self.settings.length), note)
        if not self.recipe.needs_text():
            shutil.rmtree(self._plain, ignore_errors=True)
        return done

    def statistics(self, checkpoint: Checkpoint) -> StatisticsOf | None:
        """What the text says of parts, `checkpoint` being extended by the calibration's file; None if nobody asks."""
        if not self.recipe.needs_text():
            return None
        tokenizer = Tokenizer(self._plain / "tokenizer")
        length = min(self.settings.length, self.model.max_context)
        runs = activity.token_runs(tokenizer, activity.documents(self.settings.text), self.settings.tokens, length)

        def order(name: str) -> npt.NDArray[np.int64]:
            return read_order(checkpoint, name)

        if self.settings.gradients:
            return read_curvature(self._plain, runs, self.curvature, order, self.note).of
        options = Options(ram=self._ram(length), context=length, batch=min(BATCH, length), select="all")
        return Hessians(self._plain, self._layout(), runs, options, order, note=self.note).of

    def _layout(self) -> Layout:
        """Of the plain bundle: half precision for solvers, which start from it, else what will be written."""
        return plan_layout(self.model, load_recipe("f16") if self.recipe.needs_text() else self.recipe)

    def _ram(self, length: int) -> int:
        options = Options(context=min(length, self.model.max_context))
        return max(2 * plan_bundle(self._plain, options).floor_bytes, RAM)
