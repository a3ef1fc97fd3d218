"""relufy: make a model's feed-forward activations zero most of the time, at little cost in quality.

The activation is replaced (surgery.py) and the model fine-tuned for a short while to give the
distributions of the original (distillation). Everything needed to go on is written now and then, as
safetensors and JSON; the same command resumes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.bundle.disk import write_file
from edgekit.bundle.workspace import Workspace, check_apart, check_replaceable, output_path, workspace
from edgekit.calibrate.activity import documents
from edgekit.checkpoint import open_checkpoint, tokenizer_files
from edgekit.errors import CheckpointError, ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.train.state import State, optimizer_state, restore_optimizer
from edgekit.train.surgery import Activation, Surgery, activation_key, operate
from edgekit.train.text import batches, rate, sequences

REPORT = "relufy.json"  # in every folder that relufy made, and what shows that relufy may replace it
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        steps: of the optimizer.
        batch: sequences in each.
        length: most tokens of a sequence.
        learning_rate: peak; warms up over a twentieth, then falls to zero like a cosine.
        sparsity: weight of the mean |activation|, which pushes more of them to zero (ProSparse).
        evaluate: held-out documents.
        save_every: steps between saves.
        seed: of the order of documents.
        device: "cpu", "cuda", "mps", or "auto".
    """

    steps: int = 400
    batch: int = 8
    length: int = 256
    learning_rate: float = 3e-4
    sparsity: float = 0.0
    evaluate: int = 100
    save_every: int = 100
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Quality:
    """Held-out perplexity, and the share of zeros in each feed-forward block."""

    perplexity: float
    sparsity: tuple[float, ...]


@dataclass(frozen=True)
class Relufied:
    """What `relufy` did: quality of the original, right after the surgery, and after tuning."""

    path: Path
    original: float
    before: Quality
    after: Quality
    steps: int
    resumed: int
    seconds: float


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _load(path: Path) -> nn.Module:
    """A transformers model from a local folder, in f32; never remote code."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    open_checkpoint(path)  # refuses pickles and damaged files with our own words
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model


@torch.no_grad()
def _quality(model: nn.Module, data: list[Tensor], acts: list[Activation], device: torch.device) -> Quality:
    model.eval()
    nats, tokens = 0.0, 0
    for a in acts:
        a.counting, a.zeros, a.seen = True, 0, 0
    for ids in data:
        logits = model(ids[None].to(device)).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, ids[1:].to(device), reduction="sum"))
        tokens += len(ids) - 1
    for a in acts:
        a.counting = False
    model.train()
    return Quality(round(math.exp(nats / tokens), 4), tuple(round(a.zeros / max(1, a.seen), 4) for a in acts))


class _Trainer:
    """Student, teacher and optimizer, and where they are kept."""

    def __init__(self, checkpoint: Path, surgery: Surgery, tuning: Tuning) -> None:
        self.device = _device(tuning.device)
        self.tuning = tuning
        self.teacher = _load(checkpoint).to(self.device).eval()
        for p in self.teacher.parameters():
            p.requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).train()
        self.acts = operate(self.student, surgery)
        for p in self.student.parameters():
            p.requires_grad_(True)
        self.inside: list[Tensor] = []
        for act in self.acts:
            act.register_forward_hook(lambda module, args, out: self.inside.append(out.abs().mean()))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=tuning.learning_rate, weight_decay=0.0)
        self.step = 0

    def resume(self, state: State) -> None:
        """Goes on from what an interrupted call left, if it was the same job.

        Raises:
            ConvertError: what it left is damaged.
        """
        found = state.load()
        if found is None:
            return
        try:
            self.step = int(found["step"])
            restore_optimizer(self.optimizer, dict(self.student.named_parameters()), found, self.step)
        except (KeyError, RuntimeError) as error:
            raise state.damaged() from error

    def save(self, state: State) -> None:
        """Writes everything needed to go on."""
        tensors = optimizer_state(self.optimizer, dict(self.student.named_parameters()))
        state.save({"step": torch.tensor(self.step), **tensors})

    def train(self, data: list[Tensor], state: State, progress: Progress) -> None:
        """Runs the steps that are left."""
        steps = range(self.step, self.tuning.steps)
        for given, known in batches(data, steps, self.tuning.batch, self.tuning.seed):
            ids, mask = given.to(self.device), known.to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.tuning.learning_rate, self.step, self.tuning.steps)
            with torch.no_grad():
                wanted = F.log_softmax(self.teacher(ids).logits.float(), dim=-1)
            self.inside.clear()
            got = F.log_softmax(self.student(ids).logits.float(), dim=-1)
            apart = F.kl_div(got, wanted, reduction="none", log_target=True).sum(dim=-1)
            loss = (apart * mask).sum() / mask.sum() + self.tuning.sparsity * torch.stack(self.inside).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            progress(self.step, self.tuning.steps)
            if self.step % self.tuning.save_every == 0:
                self.save(state)


def relufy(
    checkpoint: str | Path,
    out: str | Path,
    text: Sequence[Path],
    surgery: Surgery,
    tuning: Tuning,
    *,
    held_out: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Relufied:
    """Makes a sparse model of a checkpoint.

    Args:
        checkpoint: a folder.
        out: the folder to write, a checkpoint again.
        text: files to tune on (`documents` reads them).
        surgery: what to replace.
        tuning: how to tune.
        held_out: files to evaluate on; without them the last tenth of the text is kept back.
        overwrite: replace `out`, if relufy made it.
        progress: called with (steps done, of all).

    Raises:
        ConvertError: nothing to replace, too little text, or `out` exists and may not be replaced.
    """
    source, target = Path(checkpoint), output_path(Path(out))
    _check_target(target, overwrite)
    if source.is_file():
        raise CheckpointError(f"{source}: is no folder; relufy trains a checkpoint of safetensors with a config.json")
    check_apart(source, target)
    with workspace(target, resumes=True) as space:
        _check_target(target, overwrite)  # another process may have made it since
        done = _relufy(source, Path(out), space, text, surgery, tuning, held_out, progress)
        space.place()
    return done


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuses to replace anything but what relufy made, and that only if asked for."""
    kind = f"what relufy made (it has no {REPORT})"
    check_replaceable(target, overwrite, kind, lambda path: (path / REPORT).is_file())


def _relufy(
    source: Path,
    out: Path,
    space: Workspace,
    text: Sequence[Path],
    surgery: Surgery,
    tuning: Tuning,
    held_out: Sequence[Path],
    progress: Progress | None,
) -> Relufied:
    """Tunes, and writes the checkpoint to the workspace."""
    begin = time.monotonic()
    texts = list(documents(text))
    kept = list(documents(held_out)) if held_out else texts[-max(1, len(texts) // 10) :]
    texts = texts if held_out else texts[: -len(kept)]
    tokenizer = Tokenizer(source)
    data = sequences(tokenizer, texts, tuning.length)
    held = sequences(tokenizer, kept[: tuning.evaluate], tuning.length)
    if not data or not held:
        raise ConvertError("the text has no documents of more than 8 tokens; give more text")
    trainer = _Trainer(source, surgery, tuning)
    original = _quality(trainer.teacher, held, [], trainer.device).perplexity
    trainer.teacher.eval()
    before = _quality(trainer.student, held, trainer.acts, trainer.device)
    stamp = [asdict(surgery), asdict(tuning), open_checkpoint(source).fingerprint, [str(p) for p in text]]
    key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
    state = State(space.folder / "training", key)
    trainer.resume(state)
    resumed = trainer.step
    trainer.train(data, state, progress or (lambda done, total: None))
    after = _quality(trainer.student, held, trainer.acts, trainer.device)
    _write(trainer.student, source, space.output, surgery)
    done = Relufied(out, original, before, after, trainer.step, resumed, time.monotonic() - begin)
    report = json.dumps({**asdict(done), "path": out.name, "surgery": asdict(surgery)}, indent=1)
    write_file(space.output / REPORT, report.encode())
    return done


def _write(model: nn.Module, source: Path, folder: Path, surgery: Surgery) -> None:
    """The model as a checkpoint, in the dtype and with the tokenizer of the source."""
    shutil.rmtree(folder, ignore_errors=True)
    opened = open_checkpoint(source)
    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    stored = {dtypes.get(t.dtype, torch.float32) for t in opened.tensors.values()}
    dtype = stored.pop() if len(stored) == 1 else torch.float32
    model.to("cpu", dtype).save_pretrained(folder)  # type: ignore[operator]
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    config |= {activation_key(config): surgery.activation, **surgery.config()}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in tokenizer_files(source):
        if name != "config.json":
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    mode = (folder / "config.json").stat().st_mode
    for path in (p for p in folder.rglob("*") if p.is_file()):  # safetensors makes files that only their owner may read
        path.chmod(mode)
