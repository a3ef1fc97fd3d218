"""Decodes random tokens with a bundle and prints what it took, as JSON.

python -m benchmarks.decode '{"bundle": ..., "options": {...}, "warm": 32, "tokens": 32}'. Tokens are
forced, not sampled: a random model that is left to itself repeats one token, and its neurons with it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import numpy as np

from edgekit.runtime.model import process_peak_bytes
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options


def main() -> None:
    job = json.loads(sys.argv[1])
    rng = np.random.default_rng(job.get("seed", 1))
    with Session(job["bundle"], Options(**job["options"])) as session:
        ids = rng.integers(3, session.vocab_size, 16 + job["warm"] + job["tokens"]).tolist()
        session.eval(ids[:16])
        for token in ids[16 : 16 + job["warm"]]:
            session.eval([token])
        before, begin = asdict(session.stats), time.monotonic()
        for token in ids[16 + job["warm"] :]:
            session.eval([token])
        seconds, after = time.monotonic() - begin, asdict(session.stats)
        per_token = {k: (after[k] - before[k]) / job["tokens"] for k in after if not isinstance(after[k], bool)}
        print(
            json.dumps(
                {
                    **per_token,
                    "tokens_per_second": job["tokens"] / seconds,
                    "seconds_per_token": seconds / job["tokens"],
                    "peak_memory_bytes": after["peak_memory_bytes"],
                    "process_peak_bytes": process_peak_bytes(),
                    "io_direct": after["io_direct"],
                    "io_uring": after["io_uring"],
                    "plan": asdict(session.plan),
                }
            )
        )


if __name__ == "__main__":
    main()
