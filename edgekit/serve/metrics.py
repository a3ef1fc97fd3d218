"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgekit.serve.prefix_folder import PrefixCounts

if TYPE_CHECKING:
    from edgekit.serve.bundles import Bundles


@dataclass
class Counters:
    """Sums since the server began.

    Attributes:
        requests: by status of HTTP.
        refused: for which the queue was full.
        mean_seconds: that recent texts took.
    """

    requests: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    mean_seconds: float = 1.0

    def count_job(self, seconds: float) -> None:
        """Counts a text that has ended."""
        self.mean_seconds += 0.1 * (seconds - self.mean_seconds)


@dataclass(frozen=True)
class ModelSnapshot:
    """A loaded model at one time; sizes in bytes."""

    id: str
    sessions: int
    busy: int
    memory: int
    peak_memory: int
    budget: int
    floor: int
    weights: int
    bytes_read: int
    window_hits: int
    window_misses: int


@dataclass(frozen=True)
class Snapshot:
    """The server at one time; `flash`: the prefix cache there, None without one."""

    waiting: int = 0
    ram: int = 0
    models: tuple[ModelSnapshot, ...] = ()
    flash: PrefixCounts | None = None


def take_snapshot(bundles: Bundles, waiting: int) -> Snapshot:
    """Looks at the loaded models; on the scheduler's thread."""
    models = []
    for loaded in bundles.loaded.values():
        stats = [slot.session.stats for slot in loaded.slots]
        eyes = loaded.eyes
        models.append(
            ModelSnapshot(
                id=loaded.bundle.id,
                sessions=len(loaded.slots),
                busy=sum(slot.run is not None for slot in loaded.slots),
                memory=stats[0].memory_bytes + (eyes.memory_bytes if eyes is not None else 0),
                peak_memory=stats[0].peak_memory_bytes + (eyes.peak_bytes if eyes is not None else 0),
                budget=loaded.budget,
                floor=bundles.floor(loaded.bundle.id),
                weights=loaded.model.plan.weight_bytes,
                bytes_read=stats[0].bytes_read,
                window_hits=sum(s.window_hits for s in stats),
                window_misses=sum(s.window_misses for s in stats),
            )
        )
    flash = None if bundles.folder is None else replace(bundles.folder.counts)
    return Snapshot(waiting, bundles.ram, tuple(models), flash)


def stats_body(counters: Counters, snapshot: Snapshot) -> dict[str, Any]:
    """What the page shows: counters since the server began, and the models as they were last seen; sizes in bytes.
    `ram` is the budget of all models, 0 without a limit."""
    return {
        "prompt_tokens": counters.prompt_tokens,
        "generated_tokens": counters.generated_tokens,
        "waiting": snapshot.waiting,
        "ram": snapshot.ram,
        "models": [asdict(model) for model in snapshot.models],
    }


def prometheus(counters: Counters, snapshot: Snapshot) -> str:
    """The text format of Prometheus, version 0.0.4."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, values: list[tuple[str, float]]) -> None:
        lines.extend((f"# HELP edgekit_{name} {text}", f"# TYPE edgekit_{name} {kind}"))
        lines.extend(f"edgekit_{name}{labels} {value:g}" if value < 1e6 else f"edgekit_{name}{labels} {value:.0f}"
                     for labels, value in values)  # fmt: skip

    add("requests_total", "counter", "Requests answered, by status.",
        [(f'{{status="{s}"}}', n) for s, n in sorted(counters.requests.items())])  # fmt: skip
    add("requests_refused_total", "counter", "Requests for which the queue was full.", [("", counters.refused)])
    add("prompt_tokens_total", "counter", "Tokens of prompts.", [("", counters.prompt_tokens)])
    add("cached_tokens_total", "counter", "Tokens of prompts that were there already.", [("", counters.cached_tokens)])
    add("generated_tokens_total", "counter", "Tokens generated.", [("", counters.generated_tokens)])
    add("queue_length", "gauge", "Requests that wait for a session.", [("", snapshot.waiting)])
    for name, kind, text in _PER_MODEL:
        member = name.removesuffix("_bytes").removesuffix("_total")
        values = [(f'{{model="{_escaped(m.id)}"}}', float(getattr(m, member))) for m in snapshot.models]
        add(name, kind, text, values)
    for name, kind, text, member in _FLASH if snapshot.flash is not None else ():
        add(name, kind, text, [("", float(getattr(snapshot.flash, member)))])
    return "\n".join(lines) + "\n"


_PER_MODEL = (
    ("sessions", "gauge", "Sessions of a loaded model."),
    ("busy", "gauge", "Sessions that are in use."),
    ("memory_bytes", "gauge", "Memory that the runtime holds."),
    ("peak_memory_bytes", "gauge", "Most memory that the runtime held."),
    ("budget_bytes", "gauge", "Memory that the runtime may hold."),
    ("bytes_read_total", "counter", "Bytes read from flash since the model was loaded."),
    ("window_hits_total", "counter", "Units that were in memory when they were needed."),
    ("window_misses_total", "counter", "Units that had to be read."),
)

_FLASH = (
    ("prefix_cache_hits_total", "counter", "Prompts whose beginning was loaded from flash.", "hits"),
    ("prefix_cache_tokens_total", "counter", "Tokens of prompts that were loaded from flash.", "tokens"),
    ("prefix_cache_read_bytes_total", "counter", "Bytes that were loaded from flash.", "bytes_read"),
    ("prefix_cache_written_bytes_total", "counter", "Bytes that were saved to flash.", "bytes_written"),
    ("prefix_cache_bytes", "gauge", "Bytes of the prefix cache on flash.", "bytes"),
)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
