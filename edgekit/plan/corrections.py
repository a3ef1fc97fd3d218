"""What runs taught about a profile: factors on the seconds that it predicts.

A profile made on a busy machine would be wrong for ever. Each run tells how long its arithmetic and its reads took;
half of the difference, in logarithms, goes into two factors that lie beside the profile and belong to it alone.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.files import write_atomically

if TYPE_CHECKING:
    from edgekit.plan.predict import Prediction

STEP = 0.5  # of the difference that a run shows; a single run may have been disturbed itself
MOST = math.log(4)  # most that one run can claim
RANGE = 1e3  # factors beyond 1/RANGE and RANGE are no measurement
FEWEST_TOKENS = 8  # that a rate can be told from


@dataclass(frozen=True)
class Corrections:
    """Factors on predicted seconds.

    Attributes:
        made: when the profile was made that they belong to, seconds since 1970.
        compute: of arithmetic; above 1 it is slower than the profile says.
        read: of reads.
        runs: that taught this.
    """

    made: float
    compute: float = 1.0
    read: float = 1.0
    runs: int = 0


@dataclass(frozen=True)
class Measured:
    """What a generation took.

    Attributes:
        tokens: generated one by one.
        seconds: in all.
        wait_seconds: of those, the time that arithmetic waited for reads.
        bytes_read: from flash.
    """

    tokens: int
    seconds: float
    wait_seconds: float
    bytes_read: int


def corrected(now: Corrections, expected: Prediction, measured: Measured) -> Corrections:
    """Factors after one more run.

    Arithmetic took what was not waited. The device's time is not measured, as most of it is hidden behind arithmetic:
    it is what `predict.overlapped` needs to give the seconds measured.

    Args:
        now: factors so far.
        expected: predicted with them.
        measured: the run.
    """
    if measured.tokens < FEWEST_TOKENS or not 0 <= measured.wait_seconds < measured.seconds:
        return now
    seconds, wait = measured.seconds / measured.tokens, measured.wait_seconds / measured.tokens
    compute = seconds - wait
    exposed = compute * expected.exposed_seconds / expected.compute_seconds
    power = expected.overlap
    read = ((seconds - exposed) ** power - (compute - exposed) ** power) ** (1 / power)
    share = compute / (compute + read)
    new_compute = _step(now.compute, share, compute / expected.compute_seconds)
    new_read = now.read
    if expected.bytes_per_token > 0 and measured.bytes_read > 0 and read > 0:
        # Time per byte: how many bytes a token needs is another prediction, and not the device's matter.
        per_byte = read / (measured.bytes_read / measured.tokens)
        new_read = _step(now.read, 1 - share, per_byte / (expected.read_seconds / expected.bytes_per_token))
    return Corrections(now.made, new_compute, new_read, now.runs + 1)


def _step(factor: float, share: float, ratio: float) -> float:
    """A factor moved towards `ratio` times itself, as far as its activity had a share in the time."""
    step = STEP * share * max(-MOST, min(MOST, math.log(ratio)))
    return max(1 / RANGE, min(RANGE, factor * math.exp(step)))


def corrections_path(profile: Path) -> Path:
    """Where the corrections of a profile are kept."""
    return profile.with_name(f"{profile.stem}.corrections.json")


def load_corrections(profile: Path, made: float) -> Corrections:
    """The corrections of a profile that was made at a time; none if there are none, or those of an older profile.

    A file that cannot be read is ignored with a warning; the next run replaces it.
    """
    path = corrections_path(profile)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = Corrections(**data)
        factors = (found.compute, found.read)
        if not all(isinstance(f, (int, float)) and 1 / RANGE <= f <= RANGE for f in factors):
            raise ValueError("a factor is out of range")
        if not isinstance(found.runs, int) or found.runs < 0:
            raise ValueError("runs is no count")
    except FileNotFoundError:
        return Corrections(made)
    except (OSError, ValueError, TypeError, RecursionError):
        print(
            f"edgekit: warning: ignored {path}: not corrections of a profile; the next run replaces it", file=sys.stderr
        )
        return Corrections(made)
    return found if found.made == made else Corrections(made)


def save_corrections(profile: Path, corrections: Corrections) -> None:
    """Writes corrections beside their profile; a place that cannot be written is a warning, as the run is done."""
    path = corrections_path(profile)
    try:
        write_atomically(path, json.dumps(asdict(corrections), indent=1))
    except OSError as error:
        print(f"edgekit: warning: {path}: cannot write: {error.strerror}; plans stay as they are", file=sys.stderr)
