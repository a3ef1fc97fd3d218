"""finetune: a bundle of the same size that is closer to its original.

Scales, tables, norms and biases, and codes too if wanted (parts.py), are trained to give the distributions of the
original (distillation), end to end. Everything needed to go on is written now and then; the same command resumes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.layout import MANIFEST, plan_layout
from edgekit.bundle.rewrite import rewrite
from edgekit.bundle.workspace import Workspace, check_apart, check_replaceable, output_path, workspace
from edgekit.bundle.writer import Writer
from edgekit.calibrate.activity import documents
from edgekit.checkpoint import open_checkpoint
from edgekit.cores import usable_cores
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.jobs import Threads
from edgekit.recipe import load_recipe
from edgekit.train.decoder import Decoder
from edgekit.train.memory import available_memory
from edgekit.train.state import State, optimizer_state, restore_optimizer
from edgekit.train.student import Student
from edgekit.train.text import rate, sequences, similar_batches
from edgekit.train.weights import BundleTensors

# Of each weight: of the original, in full precision, decoded, its gradient, two moments, and what torch keeps.
COPIES = 8
LOGITS = 8  # copies of a batch's logits
BETAS = (0.9, 0.99)  # of Adam's moments: with a second one of 0.999, hundreds of steps remember how they began
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        steps: of the optimizer.
        batch: texts in each.
        length: most tokens of a text.
        learning_rate: peak, relative to the size of what is trained.
        codes: train codes too.
        search_every: steps between searches for the codes of a trellis.
        evaluate: most held-out documents.
        save_every: steps between saves.
        seed: of the order of documents.
    """

    steps: int = 400
    batch: int = 4
    length: int = 512
    learning_rate: float = 0.02
    codes: bool = True
    search_every: int = 4
    evaluate: int = 20
    save_every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Finetuned:
    """What `finetune` did: mean KL divergence from the original on held-out text, in nats per token."""

    path: Path
    before: float
    after: float
    steps: int
    resumed: int
    seconds: float


class _Trainer:
    """Student, teacher and optimizer."""

    def __init__(self, teacher: BundleTensors, student: Student, tuning: Tuning) -> None:
        self.student, self.tuning, self.step = student, tuning, 0
        self.teacher = Decoder(teacher.model, teacher)
        self.decoder = Decoder(student.model, student)
        self.named = {name: p for name, (p, _) in student.parameters().items()}
        groups = [{"params": [p], "size": size} for p, size in student.parameters().values()]
        self.optimizer = torch.optim.Adam(groups, lr=tuning.learning_rate, betas=BETAS)

    def resume(self, state: State) -> None:
        """Goes on from what an interrupted call left.

        Raises:
            ConvertError: what it left is damaged.
        """
        found = state.load()
        if found is None:
            return
        try:
            self.step = int(found["step"])
            restore_optimizer(self.optimizer, self.named, found, self.step)
            self.student.restore(found)
        except (KeyError, RuntimeError) as error:
            raise state.damaged() from error

    def save(self, state: State) -> None:
        """Writes everything needed to go on."""
        moments = optimizer_state(self.optimizer, self.named)
        state.save({"step": torch.tensor(self.step), **moments, **self.student.extra()})

    def divergence(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Summed KL divergence of the student from the teacher over the tokens of a batch."""
        with torch.no_grad():
            want = self.teacher.logits(ids)[mask].log_softmax(dim=-1)
        got = self.decoder.logits(ids)[mask].log_softmax(dim=-1)
        return (want.exp() * (want - got)).sum()

    @torch.no_grad()
    def quality(self, data: Sequence[Tensor]) -> float:
        """Mean KL divergence in nats per token."""
        self.student.changed()
        total = sum(float(self.divergence(ids[None], torch.ones(1, len(ids), dtype=torch.bool))) for ids in data)
        self.student.changed()
        return total / sum(len(ids) for ids in data)

    def train(self, data: Sequence[Tensor], state: State, progress: Progress) -> None:
        """Runs the steps that are left."""
        t = self.tuning
        progress(self.step, t.steps)
        for ids, mask in similar_batches(data, range(self.step, t.steps), t.batch, t.seed):
            for group in self.optimizer.param_groups:
                group["lr"] = rate(t.learning_rate, self.step, t.steps) * group["size"]
            self.student.changed()
            loss = self.divergence(ids, mask) / mask.sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.step += 1
            if self.step % t.search_every == 0 or self.step == t.steps:
                self.student.search(self.step // t.search_every)
            progress(self.step, t.steps)
            if self.step % t.save_every == 0:
                self.save(state)


def finetune(
    checkpoint: str | Path,
    bundle: str | Path,
    out: str | Path,
    text: Sequence[Path],
    tuning: Tuning,
    *,
    held_out: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Finetuned:
    """Makes a bundle that is closer to its original.

    Args:
        checkpoint: the original.
        bundle: what `convert` made of it.
        out: the bundle to make.
        text: files to tune on (`documents` reads them).
        tuning: how to tune.
        held_out: files to measure on; without them the last tenth of the text is kept back.
        overwrite: replace `out`, if it is a bundle.
        progress: called with (steps done, of all).

    Raises:
        ConvertError: too little text, another model, too little memory, or `out` exists and may not be replaced.
    """
    source, given = Path(checkpoint), Path(bundle)
    path = Path(out) if Path(out).suffix == ".edgekit" else Path(f"{out}.edgekit")
    target = output_path(path)
    check_replaceable(target, overwrite, "a bundle", _is_bundle)
    check_apart(given, target)
    with workspace(target, resumes=True) as space:
        check_replaceable(target, overwrite, "a bundle", _is_bundle)  # another process may have made it since
        done = _finetune(source, given, path, space, text, tuning, held_out, progress)
        space.place()
    return done


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _finetune(
    source: Path,
    bundle: Path,
    out: Path,
    space: Workspace,
    text: Sequence[Path],
    tuning: Tuning,
    held_out: Sequence[Path],
    progress: Progress | None,
) -> Finetuned:
    """Tunes, and writes the bundle to the workspace."""
    begin = time.monotonic()
    student = Student(bundle, tuning.codes)
    if not student.parts:
        raise ConvertError(f"{bundle}: has no matrix in trellis or scaled_palette, whose codes and scales are trained")
    _check_memory(student, tuning)
    texts = list(documents(text))
    kept = list(documents(held_out)) if held_out else texts[-max(1, len(texts) // 10) :]
    texts = texts if held_out else texts[: -len(kept)]
    tokenizer = Tokenizer(bundle / "tokenizer")
    length = min(tuning.length, student.model["max_context"])
    data = sequences(tokenizer, texts, length)
    held = sequences(tokenizer, kept[: tuning.evaluate], length)
    if not data or not held:
        raise ConvertError("the text has no documents of more than 8 tokens; give more text")
    trainer = _Trainer(_teacher(source, student, space.folder / "teacher"), student, tuning)
    before = trainer.quality(held)
    stamp = [
        asdict(tuning),
        student.source.data["checksum"],
        open_checkpoint(source).fingerprint,
        [str(p) for p in text],
    ]
    state = State(space.folder / "training", hashlib.sha256(json.dumps(stamp).encode()).hexdigest())
    trainer.resume(state)
    resumed = trainer.step
    trainer.train(data, state, progress or (lambda done, total: None))
    after = trainer.quality(held)
    about = {"steps": tuning.steps, "codes": tuning.codes, "text": [p.name for p in text]}
    rewrite(bundle, space.output, student.arrays(), student.vectors(), {"finetuned": about})
    return Finetuned(out, before, after, trainer.step, resumed, time.monotonic() - begin)


def _teacher(source: Path, student: Student, folder: Path) -> BundleTensors:
    """The original, in f32.

    Raises:
        ConvertError: its vocabulary is another one than the student's.
    """
    opened = open_checkpoint(source)
    model, _ = describe_checkpoint(opened)
    if model.vocab_size != student.model["vocab_size"]:
        raise ConvertError(f"{source}: is not the original of the bundle: its vocabulary has {model.vocab_size} tokens")
    Writer(opened, model, plan_layout(model, load_recipe("f32")), folder, {}, opened.fingerprint).run(
        Threads(usable_cores()), lambda done, total: None
    )
    return BundleTensors(folder)


def _check_memory(student: Student, tuning: Tuning) -> None:
    """Refuses a model that does not fit into the memory."""
    weights = sum(m["rows"] * p["cols"] for m in student.source.data["matrices"] for p in m["parts"])
    need = 4 * (COPIES * weights + LOGITS * tuning.batch * tuning.length * student.model["vocab_size"])
    free = available_memory()
    if need > free:
        raise ConvertError(
            f"fine-tuning needs about {need >> 20} MiB of memory, and {free >> 20} MiB are free; "
            "take fewer or shorter texts at a time, or a larger machine"
        )
