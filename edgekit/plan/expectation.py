"""What the profile of this machine promises a run, and what the run teaches in return."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import RuntimeFailure
from edgekit.plan import device
from edgekit.plan.corrections import Corrections, Measured, corrected, load_corrections, save_corrections
from edgekit.plan.device import Profile
from edgekit.plan.predict import Prediction, predict

if TYPE_CHECKING:
    from edgekit.runtime.values import Options, Stats


@dataclass(frozen=True)
class Expectation:
    """A prediction and what it was made from."""

    path: Path
    profile: Profile
    corrections: Corrections
    prediction: Prediction

    @property
    def tokens_per_second(self) -> float:
        """Rounded for a report."""
        return round(self.prediction.tokens_per_second, 2)


def expect(bundle: Path, options: Options) -> Expectation | None:
    """What the profile of this machine promises; None if it has none that can be read.

    A profile that is damaged or of another version is ignored with a warning: what was asked for is not the profile.
    """
    path = device.default_path()
    if not path.is_file():
        return None
    try:
        profile = device.load(path)
    except RuntimeFailure as error:
        print(f"edgekit: warning: ignored {error}", file=sys.stderr)
        return None
    corrections = load_corrections(path, profile.made)
    return Expectation(path, profile, corrections, predict(bundle, options, profile, corrections))


def measured_between(before: Stats, after: Stats) -> Measured:
    """What was generated between two states of a session's counters."""
    return Measured(
        after.generated_tokens - before.generated_tokens,
        after.generation_seconds - before.generation_seconds,
        after.io_wait_seconds - before.io_wait_seconds,
        after.generation_bytes_read - before.generation_bytes_read,
    )


def learn(expected: Expectation, measured: Measured, *, threads: int, kernel_set: str, direct: bool) -> None:
    """Corrects the profile's rates by a run, if it computed and read as the profile was measured."""
    profile = expected.profile
    if (threads, kernel_set) != (profile.threads, profile.kernel_set):
        return
    if measured.bytes_read > 0 and direct != profile.direct:
        return
    after = corrected(expected.corrections, expected.prediction, measured)
    if after != expected.corrections:
        save_corrections(expected.path, after)
