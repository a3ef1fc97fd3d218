"""Hessians of both sides of a model's matrices, by backward passes (see `edgekit.calibrate.curvature`).

The loss is the cross entropy to targets that the model draws itself, so that this is the true Fisher information: what
the KL divergence from the model curves like. (With the text's own tokens it would be the empirical one, which also
holds how wrong the model is.) The model is never held: the text goes through it stage by stage, forward and then
backward, and hidden states between stages lie in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from edgekit.calibrate.curvature import MOST_OUTPUTS, Note, part_file
from edgekit.errors import ConvertError
from edgekit.train.batches import Batch, batched
from edgekit.train.decoder import Decoder
from edgekit.train.memory import available_memory
from edgekit.train.weights import BundleTensors

TOKENS = 4096  # of a batch
LOGITS = 64 << 20  # bytes of a batch's logits
COPIES = 6  # of a batch's logits: themselves, probabilities, gradients and what torch keeps


def measure(bundle: Path, runs: Sequence[Sequence[int]], folder: Path, note: Note) -> None:
    """Writes the Hessians of every part of a bundle into files of `folder` (`part_file`).

    Args:
        bundle: the model, in plain numbers.
        runs: token ids; each run is a text of its own.
        folder: empty; hidden states lie there meanwhile.
        note: called with what is being done, and how far it is.

    Raises:
        ConvertError: a block without gradients, or a stage that the memory does not hold.
    """
    _Measurement(bundle, runs, folder, note).run()


@dataclass
class _Sums:
    """Sums over tokens of one part: |g|^2 x x^T [inputs, inputs], |x|^2 g g^T [outputs, outputs], |g|^2 |x|^2."""

    inputs: Tensor
    outputs: Tensor | None
    total: float = 0.0

    @staticmethod
    def begin(inputs: int, outputs: int) -> _Sums:
        """Of nothing yet."""
        return _Sums(torch.zeros(inputs, inputs), None if outputs > MOST_OUTPUTS else torch.zeros(outputs, outputs))

    def add(self, x: Tensor, g: Tensor) -> None:
        """Inputs x [tokens, inputs] and the gradients g [tokens, outputs] of what the matrix made of them."""
        strength, size = g.square().sum(dim=1, keepdim=True), x.square().sum(dim=1, keepdim=True)
        self.inputs += (x * strength).T @ x
        if self.outputs is not None:
            self.outputs += (g * size).T @ g
        self.total += float((strength * size).sum())

    def add_rows(self, ids: Tensor, g: Tensor) -> None:
        """Rows ids [tokens] that were looked up, and the gradients g [tokens, inputs] of what was found."""
        self.inputs += g.T @ g
        strength = g.square().sum(dim=1)
        if self.outputs is not None:
            self.outputs.diagonal().index_add_(0, ids, strength)
        self.total += float(strength.sum())


class _Measurement:
    """One model and one text."""

    def __init__(self, bundle: Path, runs: Sequence[Sequence[int]], folder: Path, note: Note) -> None:
        self.weights = BundleTensors(bundle)
        self.decoder = Decoder(self.weights.model, self.weights)
        model, self.last = self.weights.model, len(self.decoder.stages)
        self.batches = list(batched(runs, min(TOKENS, LOGITS // (4 * model["vocab_size"]))))
        self.tokens = sum(len(r) for r in runs)
        _check_memory(self.weights, self.decoder, self.batches)
        self.folder, self.note = folder, note
        self.sums: dict[tuple[str, int], _Sums] = {}
        self.file = folder / "states.f32"
        shape = (self.last + 1, self.tokens, model["hidden_size"])
        self.states = np.memmap(self.file, np.float32, "w+", shape=shape)
        self.done, self.total = 0, 2 * len(self.batches) * (self.last + 1)

    def run(self) -> None:
        """Forward, then backward."""
        with torch.no_grad():
            self._forward()
        shared = self.weights.model["embedding"]["matrix"]
        self._head()
        self._save(shared)
        for number, stage in reversed(list(enumerate(self.decoder.stages))):
            for batch in self.batches:
                self._stage(number, stage, batch)
            self._save(shared)
        for batch in self.batches:
            self._embedding(shared, batch)
        self._save(None)
        del self.states
        self.file.unlink()

    def _forward(self) -> None:
        for batch in self.batches:
            batch.put(self.states[0], self.decoder.embed(batch.ids))
            self._tick()
        self.weights.forget()
        for number, stage in enumerate(self.decoder.stages):
            for batch in self.batches:
                batch.put(self.states[number + 1], self.decoder.run(stage, batch.padded(self.states[number])))
                self._tick()
            self.weights.forget()

    def _head(self) -> None:
        random = torch.Generator().manual_seed(0)
        for batch in self.batches:

            def slope(logits: Tensor, mask: Tensor = batch.mask) -> Tensor:
                chances = logits[mask].softmax(dim=-1)
                drawn = torch.multinomial(chances, 1, generator=random)[:, 0]
                out = torch.zeros_like(logits)
                out[mask] = chances - F.one_hot(drawn, chances.shape[1])
                return out

            made = self._gradient(batch.padded(self.states[self.last]), self.decoder.head, slope)
            batch.put(self.states[self.last], made)

    def _stage(self, number: int, stage: range, batch: Batch) -> None:
        after = batch.padded(self.states[number + 1])
        made = self._gradient(batch.padded(self.states[number]), lambda x: self.decoder.run(stage, x), lambda _: after)
        batch.put(self.states[number], made)

    def _embedding(self, name: str, batch: Batch) -> None:
        after, matrix = batch.padded(self.states[0]), self.weights.matrix(name)[0]
        found = F.embedding(batch.ids, matrix)
        made = self._gradient(found, lambda x: self.decoder.embed(batch.ids, x), lambda _: after)
        sums = self.sums.setdefault((name, 0), _Sums.begin(matrix.shape[1], matrix.shape[0]))
        sums.add_rows(batch.ids[batch.mask], made[batch.mask])

    def _gradient(self, x: Tensor, compute: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient of a stage's input, given that of its output; those of its matrices are added to the sums."""
        held: list[tuple[str, int, Tensor, Tensor]] = []
        self.decoder.tap = lambda name, part, given, made: held.append((name, part, given, made))
        x.requires_grad_(True)
        out = compute(x)
        self.decoder.tap = None
        with torch.no_grad():
            wanted = slope(out)
        first, *gradients = torch.autograd.grad(out, [x, *(made for *_, made in held)], wanted, allow_unused=True)
        for (name, part, given, made), g in zip(held, gradients, strict=True):
            if g is not None:
                sums = self.sums.setdefault((name, part), _Sums.begin(given.shape[-1], made.shape[-1]))
                sums.add(given.detach().reshape(-1, given.shape[-1]), g.reshape(-1, g.shape[-1]))
        self._tick()
        return first

    def _save(self, shared: str | None) -> None:
        """Writes what is complete, all but the matrix that is met again, and lets go of it."""
        for name, part in [key for key in self.sums if key[0] != shared]:
            sums = self.sums.pop((name, part))
            if sums.total > 0:
                tensors = {"inputs": sums.inputs / self.tokens}
                if sums.outputs is not None:
                    tensors["outputs"] = sums.outputs / sums.total
                entry = self.weights.source.matrix_entry(name)["parts"][part]
                save_file(tensors, part_file(self.folder, entry["name"]))
        self.weights.forget()

    def _tick(self) -> None:
        self.done += 1
        self.note(
            "reading the text backward" if self.done > self.total // 2 else "reading the text", self.done, self.total
        )


def _check_memory(weights: BundleTensors, decoder: Decoder, batches: Sequence[Batch]) -> None:
    """Refuses a model of which a stage, its Hessians and a batch do not fit into the memory."""
    model, entries = weights.model, {m["name"]: m for m in weights.source.data["matrices"]}

    def size(tables: Iterable[dict[str, Any]]) -> int:
        values = [v for table in tables for v in table.values()]
        names = [n for v in values for n in (v if isinstance(v, list) else [v]) if isinstance(n, str) and n in entries]
        shapes = [(entries[n]["rows"], part["cols"]) for n in names for part in entries[n]["parts"]]
        return sum(4 * (rows * cols + cols**2 + (rows**2 if rows <= MOST_OUTPUTS else 0)) for rows, cols in shapes)

    stages = [size(model["blocks"][i] for i in stage) for stage in decoder.stages]
    batch = COPIES * 4 * max(b.ids.numel() for b in batches) * model["vocab_size"]
    need = max(*stages, size([model["embedding"], model["head"]]) + batch)
    free = available_memory()
    if need > free:
        raise ConvertError(
            f"--gradients needs about {need >> 20} MiB of memory for a layer of this model, and {free >> 20} MiB are "
            "free; leave it out, or convert on a larger machine"
        )
