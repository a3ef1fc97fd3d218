"""Graphs that are not language models, at fewer bits: size, and what their outputs become.

    python -m benchmarks.graphs [--data ../shared/data]

Prints the tables of docs/results/graphs.md. Detectors see a smooth synthetic picture, as no photograph is at hand;
the voice activity detector hears test.wav.
"""

from __future__ import annotations

import argparse
import tempfile
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.converters.graphs.coder import Scheme
from edgekit.converters.graphs.convert import compare, compress

SCHEMES = [Scheme(m, b) for m, b in (("affine", 8), ("palette", 8), ("palette", 6), ("palette", 4), ("affine", 4))]
FRAME, CONTEXT, RATE = 512, 64, 16000
F32 = npt.NDArray[np.float32]


def picture() -> F32:
    """[1, 3, 240, 320], low frequencies only, in the detectors' range of -1 to 1."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:240, 0:320].astype(np.float32)
    waves = [
        random.standard_normal(3)[:, None, None] * np.cos(x * random.uniform(0, 0.1) + y * random.uniform(0, 0.1) + p)
        for p in range(12)
    ]
    total = np.sum(waves, axis=0)
    return (total / np.abs(total).max()).astype(np.float32)[None]


def speech(model: Path, sound: Path, seconds: float = 20) -> F32:
    """Probability of speech for each frame of 512 samples, as silero-vad is run: 64 samples of context, state kept."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with wave.open(str(sound)) as file:
        raw = file.readframes(int(seconds * RATE))
    samples = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
    state, before, out = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32), []
    for begin in range(0, len(samples) - FRAME + 1, FRAME):
        frame = np.concatenate([before, samples[begin : begin + FRAME]])
        given = {"input": frame[None], "state": state, "sr": np.array(RATE, np.int64)}
        probability, state = session.run(None, given)
        out.append(probability[0, 0])
        before = frame[-CONTEXT:]
    return np.array(out, np.float32)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data: Path = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.onnx"
        print("| graph | weights | KiB | error of weights | scores | boxes |\n|---|---|---|---|---|---|")
        for name in ("version-slim-320", "version-RFB-320"):
            source = data / "vision" / f"{name}.onnx"
            print(f"| {name} | f32 | {source.stat().st_size / 1024:.0f} | | | |")
            for scheme in SCHEMES:
                done = compress(source, out, scheme, overwrite=True)
                found = compare(source, out, {"input": picture()})
                told = " | ".join(f"{d.relative_rms:.2%}" for d in found)
                size, error = done.bytes_after / 1024, done.relative_rms
                print(f"| | {scheme.method} {scheme.bits} | {size:.0f} | {error:.2%} | {told} |")
        source, sound = data / "audio" / "silero_vad.onnx", data / "audio" / "test.wav"
        want = speech(source, sound)
        print("\n| silero-vad | KiB | error of weights | largest difference of a probability | frames agree |")
        print("|---|---|---|---|---|")
        share = (want > 0.5).mean()
        print(f"| f32 | {source.stat().st_size / 1024:.0f} | | {len(want)} frames, {share:.1%} speech | |")
        for scheme in SCHEMES:
            done = compress(source, out, scheme, overwrite=True)
            got = speech(out, sound)
            agree = ((got > 0.5) == (want > 0.5)).mean()
            size, error = done.bytes_after / 1024, done.relative_rms
            largest = np.abs(got - want).max()
            print(f"| {scheme.method} {scheme.bits} | {size:.0f} | {error:.2%} | {largest:.3f} | {agree:.2%} |")


if __name__ == "__main__":
    main()
