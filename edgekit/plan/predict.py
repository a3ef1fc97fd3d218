"""Speed and reads of a model on this device, before it runs.

A token's time is the longer of its reads and its arithmetic, as the runtime overlaps them, and what
cannot be overlapped. Arithmetic is bytes of weights over the measured rate of their kernel; reads are
bytes over the measured rate at their size and depth; what a window saves comes from the reuse curve
that calibration recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import manifest
from edgekit.plan import device
from edgekit.plan.device import Profile, kernel_name
from edgekit.plan.reuse import interpolate
from edgekit.runtime import Options, Plan, plan_bundle

CHECKSUM = 12e9  # bytes per second and core, of checking what was read
PER_READ = 3e-6  # seconds of a core, to find a slot, queue a read and take it in
PER_BLOCK = 30e-6  # seconds of a block's small steps: norms, rotations, waking the threads
PER_NEURON = 75e-9  # seconds of a selecting block's bookkeeping per neuron it has: scores, lists, partial sums
SPARSE_SELECTED = 0.1  # share of neurons that exact selection finds active, when nobody measured it


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
    why: tuple[str, ...]


def _blocks(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [b for b in data["model"]["blocks"] if b["kind"] == "ffn"]


class _Costs:
    """Sums over a manifest's matrices."""

    def __init__(self, data: dict[str, Any], profile: Profile) -> None:
        self.data, self.profile = data, profile
        self.matrices = {m["name"]: m for m in data["matrices"]}

    def seconds(self, name: str) -> float:
        """Time to multiply by a matrix."""
        total = 0.0
        for part in self.matrices[name]["parts"]:
            rate = self.profile.kernels.get(kernel_name(part["codec"], part["bits"]), 10e9)
            total += self.matrices[name]["rows"] * part["cols"] * part["bits"] / 8 / rate
        return total

    def units(self, name: str) -> int:
        m = self.matrices[name]
        return -(-int(m["rows"]) // int(m["rows_per_unit"]))


def _selected(block: dict[str, Any], select: str, sparsity: float) -> float:
    if select == "predicted" and "predictor" in block:
        return float(block["predictor"].get("predicted", 0.1))
    if select == "exact" and "selector" in block:
        return float(block.get("predictor", {}).get("active", SPARSE_SELECTED))
    if select in ("threshold", "prompt"):
        return 1 - (sparsity or 0.5)
    return 1.0


def predict(bundle: Path, options: Options, profile: Profile) -> Prediction:
    """What decoding will take.

    Raises:
        BudgetError: the budget is below the floor.
    """
    data = manifest.read(bundle).data
    plan = plan_bundle(bundle, options)
    costs = _Costs(data, profile)
    model = data["model"]
    head = costs.seconds(model["head"]["matrix"])
    compute = head + PER_BLOCK * len(model["blocks"])
    needed = 0.0  # units that tokens need
    fresh, unit_bytes, selected = 0.0, 0.0, []
    windowed = plan.window_bytes > 0
    room = [costs.units(b["matrices"][0]) for b in _blocks(data)]
    slots = plan.window_bytes / max((costs.matrices[b["matrices"][0]]["unit_stride"] for b in _blocks(data)), default=1)
    share_held = slots / max(1, sum(room))
    for block in model["blocks"]:
        if block["kind"] == "attention":
            compute += sum(costs.seconds(block[p]) for p in ("q", "k", "v", "o"))
            continue
        if block["kind"] == "experts":
            compute += costs.seconds(block["router"])
            compute += sum(costs.seconds(m) for m in block["matrices"]) * block["top_k"] / len(block["matrices"])
            continue
        part = _selected(block, plan.select, options.sparsity)
        selected.append(part)
        name = block["matrices"][0]
        compute += costs.seconds(name) * part
        if "selector" in block:
            compute += costs.seconds(block["selector"]) * (part if plan.select == "predicted" else 1.0)
        if plan.select == "predicted" and "predictor" in block:
            compute += 2 * sum(costs.seconds(block["predictor"][p]) for p in ("down", "up"))
        if part < 1:
            compute += PER_NEURON * block["size"]
        if windowed and part < 1:
            m = costs.matrices[name]
            per = m["rows_per_unit"]
            units = costs.units(name) * (1 - (1 - part) ** per)
            curve = [tuple(p) for p in block.get("predictor", {}).get("reuse", [])]
            hits = interpolate(curve, share_held)
            needed += units
            fresh += units * (1 - hits)
            unit_bytes += units * (1 - hits) * m["unit_stride"]
    size = unit_bytes / fresh if fresh else 0.0
    small = profile.read_seconds(size, fresh, options.io_depth or 128)
    stream = plan.streamed_bytes / profile.stream
    read = small + stream
    check = (plan.streamed_bytes + unit_bytes) / CHECKSUM / profile.threads + fresh * PER_READ
    compute += check
    overlapped = options.lookahead or plan.select != "predicted"
    seconds = max(compute, read + (head if fresh else 0)) if overlapped else compute + read
    mean = sum(selected) / len(selected) if selected else 1.0
    hit_rate = 1 - fresh / needed if needed else 0.0
    return Prediction(
        plan,
        1 / seconds,
        int(unit_bytes + plan.streamed_bytes),
        round(fresh),
        mean,
        hit_rate,
        compute,
        read,
        _why(plan, mean, hit_rate, compute, read),
    )


def expected(bundle: Path, options: Options) -> float | None:
    """Tokens per second that the profile of this machine promises; None if it has none."""
    if not device.default_path().is_file():
        return None
    return round(predict(bundle, options, device.load(device.default_path())).tokens_per_second, 2)


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
