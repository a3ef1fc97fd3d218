"""Recipes side by side: what each makes of a checkpoint in size, distance from the original, speed and time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bundle.checksum import hashed
from edgekit.bundle.layout import MANIFEST
from edgekit.calibrate.activity import documents, token_runs
from edgekit.calibrate.calibration import Calibration
from edgekit.calibrate.target import Target
from edgekit.checkpoint import locate, open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import ConvertError, EdgekitError
from edgekit.evaluate.comparison import Comparison, compare
from edgekit.evaluate.speed import Speed, interleaved_speeds
from edgekit.files import write_atomically
from edgekit.generate.embedding import require_writer
from edgekit.generate.loop import TextModel
from edgekit.inspect import inspect_bundle
from edgekit.recipe import load_recipe
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from edgekit.version import __version__

Note = Callable[[str, int, int], None]
RESULTS = "compare.json"  # in the folder of the bundles: what is known of each
PROMPT = 64  # tokens


@dataclass(frozen=True)
class Candidate:
    """A way to make a bundle.

    Attributes:
        name: what the table calls it, and its bundle.
        recipe: a preset's name or a TOML file; None with a target.
        target: a size, into which the bits of each tensor are fitted.
    """

    name: str
    recipe: str | None = None
    target: Target | None = None


@dataclass(frozen=True)
class Row:
    """What a candidate came to; None for what was not measured.

    Attributes:
        recipe: the candidate's name.
        error: the line that says why there is no bundle; all that follows is None then.
        bundle_bytes: of the weights, everything included.
        bits_per_weight: those bytes per weight.
        coded_bits_per_weight: bits of codes, scales and tables alone.
        convert_seconds: how long the conversion took.
        perplexity: on the text.
        kl: mean KL divergence from the original, nats per token.
        kl_99: 99% of tokens have at most this.
        top1: share of tokens where both prefer the same.
        prompt_tokens_per_second: with all of the model in memory.
        tokens_per_second: with all of the model in memory.
        budget_tokens_per_second: under the budget, if there is one and it can be kept.
        budget_error: why the budget cannot be kept.
    """

    recipe: str
    error: str | None = None
    bundle_bytes: int | None = None
    bits_per_weight: float | None = None
    coded_bits_per_weight: float | None = None
    convert_seconds: float | None = None
    perplexity: float | None = None
    kl: float | None = None
    kl_99: float | None = None
    top1: float | None = None
    prompt_tokens_per_second: float | None = None
    tokens_per_second: float | None = None
    budget_tokens_per_second: float | None = None
    budget_error: str | None = None


@dataclass(frozen=True)
class Measuring:
    """How candidates are measured.

    Attributes:
        text: files that quality is measured on.
        tokens: of text that are read at most.
        ram: a budget, under which speed is measured too.
        generate: tokens that are written for speed; 0 measures none.
        rounds: turns of each bundle, whose medians count.
        threads: that compute; 0 for all cores.
    """

    text: tuple[Path, ...]
    tokens: int = 4096
    ram: str | None = None
    generate: int = 32
    rounds: int = 3
    threads: int = 0


def parse_candidates(recipes: str, targets: Sequence[float], method: str) -> list[Candidate]:
    """Candidates of a command line, checked before any work.

    Args:
        recipes: presets and TOML files, comma-separated.
        targets: bits per weight to allocate.
        method: codecs that targets choose among.

    Raises:
        RecipeError: one is neither a preset nor a recipe's file.
        ConvertError: two have one name, or there is none.
    """
    found = [Candidate(load_recipe(name).name, name) for name in filter(None, map(str.strip, recipes.split(",")))]
    found += [Candidate(f"{method}-{bits:g}bpw", target=Target(bits, None, method)) for bits in targets]
    names = [c.name for c in found]
    if not found:
        raise ConvertError("nothing to compare; name presets or TOML files with --recipes a,b,c")
    for name in names:
        if names.count(name) > 1:
            raise ConvertError(f"two recipes have the name '{name}'; give each its own")
        if "/" in name or name.startswith("."):
            raise ConvertError(f"'{name}' cannot be the name of a bundle; rename the recipe")
    return found


def compare_recipes(
    checkpoint: str,
    candidates: Sequence[Candidate],
    folder: Path,
    measuring: Measuring,
    calibration: Calibration | None,
    overwrite: bool,
    note: Note,
) -> list[Row]:
    """Makes a bundle by each candidate and measures all of them.

    Args:
        checkpoint: a folder, a GGUF file or a hub id.
        candidates: what is compared.
        folder: where the bundles go; what an earlier call with the same settings measured there is taken over.
        measuring: how.
        calibration: text that all of them learn from.
        overwrite: replace bundles of other settings.
        note: called with (what is being done, done, of all).

    Returns:
        A row for each candidate, in their order. One that cannot be made has a row that says why.

    Raises:
        EdgekitError: the original or the text cannot be read.
    """
    source = open_checkpoint(locate(checkpoint).path)
    stamps = [f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in measuring.text if p.exists()]
    learned = calibration.key() if calibration is not None else ""
    common = f"{__version__}:{source.fingerprint}:{learned}:{stamps}:{measuring.tokens}"
    known = _read_known(folder / RESULTS)
    original: _Original | None = None
    rows: list[Row] = []
    for candidate in candidates:
        rules = "" if candidate.recipe is None else load_recipe(candidate.recipe).fingerprint()
        key = hashed(f"{common}:{candidate.name}:{rules}:{candidate.target}")
        bundle = folder / f"{candidate.name}.edgekit"
        row = known.get(key)
        if row is None or not (bundle / MANIFEST).is_file():
            original = original or _original(checkpoint, source.fingerprint, folder, measuring, note)
            row = _row(checkpoint, candidate, bundle, original, calibration, overwrite, note)
        if row.error is None:
            known[key] = row
            _keep(folder / RESULTS, known)
        rows.append(row)
    return _with_speeds(rows, folder, measuring, note)


@dataclass(frozen=True)
class _Original:
    """What distances are taken from.

    Attributes:
        bundle: the checkpoint in f32.
        runs: token ids of the texts, each read on its own.
        threads: that compute.
    """

    bundle: Path
    runs: list[list[int]]
    threads: int


def _original(checkpoint: str, fingerprint: str, folder: Path, measuring: Measuring, note: Note) -> _Original:
    """The checkpoint as a bundle in f32, of an earlier call if there is one, and the text in tokens."""
    path = folder / f"original-{hashed(fingerprint)[:12]}.edgekit"
    if not (path / MANIFEST).is_file():
        convert(checkpoint, path, "f32", progress=lambda done, total: note("reading the original", done, total))
    with TextModel(path, Options(threads=measuring.threads)) as model:
        require_writer(model.manifest["model"])
        runs = token_runs(model.tokenizer, documents(measuring.text), measuring.tokens, model.plan.context)
    return _Original(path, runs, measuring.threads)


def _row(
    checkpoint: str,
    candidate: Candidate,
    bundle: Path,
    original: _Original,
    calibration: Calibration | None,
    overwrite: bool,
    note: Note,
) -> Row:
    """Size, time and distance of a candidate, whose bundle is made."""
    name = candidate.name
    what = f"converting {name}"
    try:
        done = convert(
            checkpoint, bundle, candidate.recipe, target=candidate.target, calibration=calibration, overwrite=overwrite,
            progress=lambda done, total: note(what, done, total),
            note=lambda _, done, total: note(what, done, total),
        )  # fmt: skip
    except EdgekitError as error:
        return Row(name, error=str(error))
    found = _distance(bundle, original, lambda done, total: note(f"reading with {name}", done, total))
    about = inspect_bundle(bundle)
    return Row(
        name, None, done.bundle_bytes, about["bits_per_weight"], about["coded_bits_per_weight"],
        round(done.seconds, 2), found.perplexity, found.kl, found.kl_99, found.top1,
    )  # fmt: skip


def _distance(bundle: Path, original: _Original, progress: Callable[[int, int], None]) -> Comparison:
    """Of a bundle from the original, on the text."""
    options = Options(threads=original.threads)
    with TextModel(bundle, options) as model, TextModel(original.bundle, options) as other:
        return compare(
            model.session, other.session, original.runs, sum(map(len, original.runs)),
            lambda ids: len(model.tokenizer.decode(list(ids)).encode()), progress,
        )  # fmt: skip


def _with_speeds(rows: list[Row], folder: Path, measuring: Measuring, note: Note) -> list[Row]:
    """Rows with the speeds of all bundles, in turns: in memory, then of those that can keep the budget within it."""
    at = [i for i, row in enumerate(rows) if row.error is None]
    paths = {i: folder / f"{rows[i].recipe}.edgekit" for i in at}
    options = Options(threads=measuring.threads)
    out = list(rows)
    if not measuring.generate or not at:
        return out

    def speeds(which: list[int], options: Options, what: str) -> Iterator[tuple[int, Speed]]:
        found = interleaved_speeds(
            [paths[i] for i in which], options, PROMPT, measuring.generate, measuring.rounds,
            lambda done, total: note(what, done, total),
        )  # fmt: skip
        return zip(which, found, strict=True)

    for i, s in speeds(at, options, "measuring in memory"):
        rates = (round(s.prompt_tokens_per_second, 2), round(s.tokens_per_second, 2))
        out[i] = replace(out[i], prompt_tokens_per_second=rates[0], tokens_per_second=rates[1])
    if measuring.ram is None:
        return out
    options = replace(options, ram=measuring.ram, context=PROMPT + measuring.generate)
    able = []
    for i in at:
        try:
            plan_bundle(paths[i], options)
            able.append(i)
        except EdgekitError as error:
            out[i] = replace(out[i], budget_error=str(error))
    for i, s in speeds(able, options, f"measuring within {measuring.ram}"):
        out[i] = replace(out[i], budget_tokens_per_second=round(s.tokens_per_second, 2))
    return out


def _read_known(path: Path) -> dict[str, Row]:
    """Rows of earlier calls by their key; none if the file is absent or not one of ours."""
    try:
        loaded: Any = json.loads(path.read_text())
        return {str(key): Row(**row) for key, row in loaded.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(path: Path, known: dict[str, Row]) -> None:
    try:
        write_atomically(path, json.dumps({key: asdict(row) for key, row in known.items()}, indent=1))
    except OSError as error:
        raise ConvertError(f"{path}: cannot write: {error.strerror}") from error
