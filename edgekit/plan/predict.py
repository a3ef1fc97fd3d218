"""Speed and reads of a model on this device, before it runs.

A token's time is that of its reads and of its arithmetic, which the runtime overlaps. Arithmetic is bytes of
weights over the measured rate of their kernels; reads are bytes over the measured rate at their size and
depth; what a window saves comes from the reuse curve that calibration recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import manifest
from edgekit.errors import RuntimeFailure
from edgekit.plan.corrections import Corrections
from edgekit.plan.device import Profile, kernel_name
from edgekit.plan.reuse import interpolate
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options, Plan

CHECKSUM = 12e9  # bytes per second and core, of checking what was read
PER_READ = 3e-6  # seconds of a core, to find a slot, queue a read and take it in
PER_BLOCK = 30e-6  # seconds of a block's small steps: norms, rotations, waking the threads
PER_NEURON = 30e-9  # seconds of a core, for a neuron's activation and the calls of its kernels
PER_SCORE = 75e-9  # seconds of a selecting block's bookkeeping per neuron it has: scores, lists, partial sums
SPARSE_SELECTED = 0.1  # share of neurons that exact selection finds active, when nobody measured it
# Of the misses, what look-ahead adds by its wrong guesses (select/ahead.h): 4-14% on planted models, 25% on the demo.
AHEAD = 0.1
# Two activities that overlap take longer than the longer: neither has work for the other all the time, and
# reading takes some of the processor. 1 would be one after the other, infinity the longer alone. Layers are read
# long before they are needed; which neurons are needed is known late, and look-ahead makes up for a part of that.
OVERLAP_LAYERS = 2.5
OVERLAP_NEURONS = 1.5

# Of each kind of block that looks at other tokens.
MIXER_MATRICES = {
    "attention": ("q", "k", "v", "gate", "o"),
    "convolution": ("gate_in", "gate_out", "value", "o"),
    "layer_input": ("gate", "o"),
    "linear_attention": ("q", "k", "v", "gate", "beta", "decay", "o"),
}
STATE_RATE = 8e9  # bytes per second and core, of what a token reads and writes of a linear attention's state

Json = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What a token will take.

    Attributes:
        plan: memory, as the runtime divides it.
        tokens_per_second: decoding one token at a time.
        bytes_per_token: read from flash.
        reads_per_token: small reads; 0 when layers are streamed.
        selected: share of neurons computed.
        hit_rate: share of their units that are in the window.
        compute_seconds: arithmetic.
        read_seconds: the device's time.
        exposed_seconds: of the arithmetic, what no read overlaps.
        overlap: the power of `overlapped` for the rest; 1 is one after the other.
        why: in words.
    """

    plan: Plan
    tokens_per_second: float
    bytes_per_token: int
    reads_per_token: int
    selected: float
    hit_rate: float
    compute_seconds: float
    read_seconds: float
    exposed_seconds: float
    overlap: float
    why: tuple[str, ...]


def overlapped(a: float, b: float, power: float) -> float:
    """Seconds that two activities take side by side."""
    return float((a**power + b**power) ** (1 / power))


def _selected(block: Json, select: str, sparsity: float) -> float:
    """Share of a block's neurons that a token computes."""
    if select == "predicted" and "predictor" in block:
        return float(block["predictor"].get("predicted", 0.1))
    if select == "exact" and "selector" in block:
        return float(block.get("predictor", {}).get("active", SPARSE_SELECTED))
    if select in ("threshold", "prompt"):
        return 1 - (sparsity or 0.5)
    return 1.0


class _Token:
    """Sums over the blocks that one token passes."""

    def __init__(self, data: Json, plan: Plan, options: Options, profile: Profile) -> None:
        self.plan, self.options, self.profile = plan, options, profile
        self.matrices: dict[str, Json] = {m["name"]: m for m in data["matrices"]}
        self.compute = 0.0  # seconds
        # Units that a token needs, does not find in the window, reads (some in vain), and the bytes of those.
        self.needed = self.missing = self.fresh = self.unit_bytes = 0.0
        self.selected: list[float] = []
        blocks = data["model"]["blocks"]
        windowed = [m for b in blocks for m in b.get("matrices", [])]
        slots = plan.window_bytes / max((self.matrices[m]["unit_stride"] for m in windowed), default=1)
        self.share_held = slots / max(1, sum(self._units(m) for m in windowed))
        for block in blocks:
            self.compute += PER_BLOCK
            {"ffn": self._ffn, "experts": self._experts}.get(block["kind"], self._mixer)(block)
        self.head = self._seconds(data["model"]["head"]["matrix"])
        self.compute += self.head
        self.compute += (plan.streamed_bytes + self.unit_bytes) / CHECKSUM / profile.threads + self.fresh * PER_READ

    def _units(self, name: str) -> int:
        m = self.matrices[name]
        return -(-int(m["rows"]) // int(m["rows_per_unit"]))

    def _seconds(self, matrix: str, *, neurons: bool = False) -> float:
        """Time to multiply by a matrix; the last part of one that holds neurons is their down projection."""
        m, total = self.matrices[matrix], 0.0
        for i, part in enumerate(m["parts"]):
            down = neurons and i + 1 == len(m["parts"])
            name = kernel_name(part["codec"], part["bits"], down=down, activations=self.options.activations)
            rate = self.profile.kernels.get(name, 10e9)
            total += m["rows"] * part["cols"] * part["bits"] / 8 / rate
        return total + (m["rows"] * PER_NEURON / self.profile.threads if neurons else 0.0)

    def _mixer(self, block: Json) -> None:
        self.compute += sum(self._seconds(block[p]) for p in MIXER_MATRICES[block["kind"]] if p in block)
        if block["kind"] == "linear_attention":
            state = 4 * block["value_heads"] * block["key_dim"] * block["value_dim"]
            self.compute += 2 * state / STATE_RATE / self.profile.threads

    def _experts(self, block: Json) -> None:
        share = block["top_k"] / len(block["matrices"])
        self.compute += self._seconds(block["router"])
        self.compute += sum(self._seconds(m, neurons=True) for m in block["matrices"]) * share
        # Without a record of what the router chooses: as if it had no favourites.
        curve = [tuple(p) for p in block.get("reuse", [])]
        hits = interpolate(curve, self.share_held) if curve else min(1.0, self.share_held)
        for name in block["matrices"] if self.plan.window_bytes else []:
            self._read(name, share * self._units(name), hits)

    def _ffn(self, block: Json) -> None:
        part = _selected(block, self.plan.select, self.options.sparsity)
        self.selected.append(part)
        name = block["matrices"][0]
        predicted = self.plan.select == "predicted"
        self.compute += self._seconds(name, neurons=True) * part
        if "selector" in block:
            self.compute += self._seconds(block["selector"]) * (part if predicted else 1.0)
        if predicted and "predictor" in block:
            self.compute += 2 * sum(self._seconds(block["predictor"][p]) for p in ("down", "up"))
        if part == 1:
            return
        self.compute += PER_SCORE * block["size"]
        if self.plan.window_bytes:
            units = self._units(name) * (1 - (1 - part) ** self.matrices[name]["rows_per_unit"])
            curve = [tuple(p) for p in block.get("predictor", {}).get("reuse", [])]
            self._read(name, units, interpolate(curve, self.share_held))

    def _read(self, name: str, units: float, hits: float) -> None:
        """A token needs so many units of a matrix and finds a share of them in the window."""
        ahead = 1 + AHEAD if self.options.lookahead and self.plan.select == "predicted" else 1.0
        self.needed += units
        self.missing += units * (1 - hits)
        self.fresh += units * (1 - hits) * ahead
        self.unit_bytes += units * (1 - hits) * ahead * self.matrices[name]["unit_stride"]

    @property
    def read(self) -> float:
        """Seconds of the device."""
        size = self.unit_bytes / self.fresh if self.fresh else 0.0
        small = self.profile.read_seconds(size, self.fresh, self.options.io_depth or 128)
        return small + self.plan.streamed_bytes / self.profile.stream


def predict(bundle: Path, options: Options, profile: Profile, corrections: Corrections | None = None) -> Prediction:
    """What decoding will take.

    Args:
        bundle: its folder.
        options: how it will be opened.
        profile: of this device.
        corrections: what runs taught about the profile.

    Raises:
        BudgetError: the budget is below the floor.
        RuntimeFailure: the model writes no text.
    """
    data = manifest.read(bundle).data
    if data["model"].get("output", "logits") != "logits":
        raise RuntimeFailure(
            f"{bundle}: plans predict how fast a model writes, and this one reads texts; 'edgekit inspect' shows the "
            "memory that it takes"
        )
    plan = plan_bundle(bundle, options)
    token = _Token(data, plan, options, profile)
    factors = corrections or Corrections(profile.made)
    compute, read = token.compute * factors.compute, token.read * factors.read
    exposed, power = 0.0, 1.0
    if options.lookahead or plan.select not in ("predicted", "router"):
        # Nothing that selects can be read while the head computes: the next token is not known.
        exposed = token.head * factors.compute if token.fresh else 0.0
        power = OVERLAP_NEURONS if token.fresh else OVERLAP_LAYERS
    seconds = overlapped(compute - exposed, read, power) + exposed
    mean = sum(token.selected) / len(token.selected) if token.selected else 1.0
    hit_rate = 1 - token.missing / token.needed if token.needed else 0.0
    return Prediction(
        plan,
        1 / seconds,
        int(token.unit_bytes + plan.streamed_bytes),
        round(token.fresh),
        mean,
        hit_rate,
        compute,
        read,
        exposed,
        power,
        _why(plan, mean, hit_rate, compute, read),
    )


def _why(plan: Plan, selected: float, hits: float, compute: float, read: float) -> tuple[str, ...]:
    share = plan.resident_bytes / max(1, plan.weight_bytes)
    lines = [f"{share:.0%} of the weights stay in memory"]
    if plan.streamed_bytes:
        lines.append(f"{plan.streamed_bytes / 2**20:.0f} MiB of layers are streamed for every token")
    if plan.window_bytes:
        lines.append(
            f"a window of {plan.window_bytes / 2**20:.0f} MiB holds {hits:.0%} of what a token needs of the "
            f"{selected:.0%} of neurons that it selects"
        )
    slower = "flash" if read > compute else "arithmetic"
    lines.append(f"{slower} is what limits it: {1e3 * read:.0f} ms of reads, {1e3 * compute:.0f} ms of arithmetic")
    return tuple(lines)
