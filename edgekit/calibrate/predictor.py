"""Low-rank predictors of which neurons will be active, from a block's input.

Source: "LLM in a flash" (arXiv 2312.11514), section 3.1, after Deja Vu (arXiv 2310.17157). A predictor
is sign(up (down x) + bias). It starts from the best low-rank approximation of the pre-activations on
the calibration text, which is a linear problem, and is then trained as a logistic classifier with
balanced classes. The bias is shifted at last, so that the held-out tokens miss no more active neurons
than asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.calibrate.activity import Bools, Selecting, activations
from edgekit.codecs import make_codec
from edgekit.solvers import encode

F32 = npt.NDArray[np.float32]
SAMPLE = 1024  # tokens of the linear start
BATCH = 256
MOST_WEIGHT = 30.0  # of an active neuron against an inactive one


@dataclass(frozen=True)
class Trained:
    """A predictor, and how it did on held-out tokens (shares of active, of inactive, of all neurons)."""

    down: F32  # [rank, hidden]
    up: F32  # [size, rank]
    bias: F32  # [size]
    false_negatives: float
    false_positives: float
    active: float
    predicted: float

    def predict(self, x: F32) -> Bools:
        """Which neurons it takes, bool [tokens, size]."""
        out: Bools = x @ self.down.T @ self.up.T + self.bias > 0
        return out

    @property
    def rank(self) -> int:
        return len(self.down)

    def report(self) -> tuple[tuple[str, float], ...]:
        """For the manifest."""
        names = ("false_negatives", "false_positives", "active", "predicted")
        return tuple((n, round(float(getattr(self, n)), 5)) for n in names)


def low_rank_start(source: Selecting, x: F32, rank: int) -> tuple[F32, F32]:
    """down [rank, hidden] and up [size, rank] whose product best reproduces the pre-activations of x."""
    x = x[:: max(1, len(x) // SAMPLE)][:SAMPLE]
    gram = np.zeros((len(x), len(x)))
    for _, z in activations(source, x):
        gram += (z @ z.T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    rank = min(rank, len(x))
    basis = (vectors[:, -rank:] / np.sqrt(np.maximum(values[-rank:], 1e-9))).astype(np.float32)  # [sample, rank]
    up = np.zeros((source.size, rank), np.float32)
    down = np.zeros((rank, x.shape[1]), np.float32)
    for begin, rows in source.rows():
        up[begin : begin + len(rows)] = rows @ (x.T @ basis)
        down += up[begin : begin + len(rows)].T @ rows
    scale = np.sqrt(np.abs(down).max(axis=1, keepdims=True) + 1e-12)
    return down / scale, up * scale.T


class _Adam:
    """The usual steps for one array, in place."""

    def __init__(self, array: F32, rate: float) -> None:
        self.array, self.rate, self.step = array, rate, 0
        self.first, self.second = np.zeros_like(array), np.zeros_like(array)

    def update(self, gradient: F32, decay: float) -> None:
        self.step += 1
        self.first += 0.1 * (gradient - self.first)
        self.second += 0.01 * (gradient * gradient - self.second)
        first = self.first / (1 - 0.9**self.step)
        second = self.second / (1 - 0.99**self.step)
        self.array -= self.rate * decay * first / (np.sqrt(second) + 1e-8)


def _refine(x: F32, y: Bools, down: F32, up: F32, bias: F32, epochs: int, rng: np.random.Generator) -> None:
    """Logistic regression with balanced classes, in place."""
    share = np.maximum(y.mean(axis=0), 1e-3)
    weight = np.minimum((1 - share) / share, MOST_WEIGHT).astype(np.float32)
    spread = float(np.abs(x @ down.T @ up[:256].T).mean()) + 1e-6  # bring logits to a sensible range first
    up *= 2 / spread
    bias *= 2 / spread
    steps = epochs * -(-len(x) // BATCH)
    size = np.sqrt((up**2).mean()), np.sqrt((down**2).mean())
    moves = _Adam(up, 0.02 * float(size[0])), _Adam(down, 0.02 * float(size[1])), _Adam(bias, 0.02)
    done = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for at in range(0, len(x), BATCH):
            pick = order[at : at + BATCH]
            low = x[pick] @ down.T
            logits = low @ up.T + bias
            target = y[pick]
            error = np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))) - target, np.float32)
            error *= np.where(target, weight, np.float32(1)) / np.float32(len(pick))
            decay = 1 - done / steps
            back = np.asarray(error @ up, np.float32)
            moves[0].update(np.asarray(error.T @ low, np.float32), decay)
            moves[1].update(back.T @ x[pick], decay)
            moves[2].update(np.asarray(error.sum(axis=0), np.float32), decay)
            done += 1


def _stored(matrix: F32) -> F32:
    """The matrix as the bundle will hold it: 8 bits in groups of 32."""
    codec = make_codec("affine", 8, group_size=32)
    return codec.decode(encode(codec, matrix).records, matrix.shape[1])


def _settle(x: F32, y: Bools, down: F32, up: F32, bias: F32, false_negatives: float) -> Trained:
    """Shifts the bias for the wanted share of misses on x, and measures."""
    scores = x @ _stored(down).T @ _stored(up).T + bias
    positive = scores[y]
    shift = -float(np.quantile(positive, false_negatives)) if len(positive) else 0.0
    found = scores + shift + 1e-6 > 0
    inactive = max(1, int((~y).sum()))
    return Trained(
        down,
        up,
        bias + np.float32(shift + 1e-6),
        float((y & ~found).sum() / max(1, y.sum())),
        float((found & ~y).sum() / inactive),
        float(y.mean()),
        float(found.mean()),
    )


def train(
    source: Selecting,
    x: F32,
    y: Bools,
    *,
    false_negatives: float,
    false_positives: float,
    epochs: int,
    seed: int,
) -> Trained:
    """The predictor of least rank that keeps to both shares on held-out tokens, or the best tried.

    Args:
        source: the block.
        x: its inputs, f32 [tokens, hidden].
        y: which neurons they make active, bool [tokens, size].
        false_negatives: share of active neurons that may be missed; the bias is set for it.
        false_positives: share of inactive neurons that may be read for nothing; decides the rank.
        epochs: passes over the tokens.
        seed: of the order of training.
    """
    held = max(1, len(x) // 5)
    rng = np.random.default_rng(seed)
    best: Trained | None = None
    rank, most = 32, max(32, x.shape[1] // 2)
    while rank <= most:
        down, up = low_rank_start(source, x[:-held], rank)
        bias = source.bias().copy()
        if epochs:
            _refine(x[:-held], y[:-held], down, up, bias, epochs, rng)
        made = _settle(x[-held:], y[-held:], down, up, bias, false_negatives)
        better = best is None or made.false_positives < 0.85 * best.false_positives
        if better:
            best = made
        if made.false_positives <= false_positives or not better:
            break
        rank *= 2
    assert best is not None
    return best
