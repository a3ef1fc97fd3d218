"""Trained checkpoints print the same greedy text from every runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.converters.check import greedy
from edgekit.converters.engines import open_engine
from edgekit.converters.session import ArtifactSession
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Options, Sampling
from tests.conftest import ROOT

GREEDY, PROMPT, COUNT = Sampling(temperature=0), "Once upon a time", 48
KINDS = ["onnx", "onnx-exact", "onnx-flash", "mlx", "mlx-exact"]


@pytest.fixture(scope="module", params=["demo", "stories260K"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = ROOT / "examples" / "demo_model" / "checkpoint"
    if request.param != "demo":
        source = request.getfixturevalue("stories")
    return convert(source, tmp_path_factory.mktemp("golden") / "bundle", "f32").path


@pytest.fixture(scope="module")
def native(bundle: Path) -> tuple[list[int], list[int], str]:
    """Prompt ids, generated ids, text."""
    with edgekit.load(bundle) as model:
        ids = model.tokenizer.encode(PROMPT)
        pieces = list(model.generate(ids, COUNT, GREEDY))
        return ids, [p.token for p in pieces if p.token >= 0], "".join(p.text for p in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_artifacts_generate_the_native_text(kind: str, bundle: Path, native: tuple[list[int], list[int], str]) -> None:
    export(bundle, kind, overwrite=True)
    session = ArtifactSession(bundle, kind, Options())
    with TextModel(bundle, session=session) as model:
        text = "".join(p.text for p in model.generate(PROMPT, COUNT, GREEDY))
    assert text == native[2]


@pytest.mark.parametrize("kind", ["coreml", "coreml-flash", "coreai"])
def test_apple_artifacts_continue_as_the_native_runtime_does(
    kind: str, bundle: Path, native: tuple[list[int], list[int], str]
) -> None:
    export(bundle, kind, overwrite=True)
    engine = open_engine(bundle, kind, Options(compute="feed_forward"), check=True)
    ids, tokens, _ = native
    text, _ = greedy(engine, ids, len(ids) + len(tokens))
    assert text == ids + tokens


@pytest.mark.parametrize("kind", ["onnx", "onnx-flash"])
def test_onnxruntime_genai_generates_the_native_text(
    kind: str, bundle: Path, native: tuple[list[int], list[int], str], tmp_path: Path
) -> None:
    artifact = export(bundle, kind, overwrite=True)
    script = (
        "import sys, onnxruntime_genai as og\n"
        "model = og.Model(sys.argv[1]); ids = eval(sys.argv[2]); n = len(ids) + int(sys.argv[3])\n"
        "params = og.GeneratorParams(model); params.set_search_options(max_length=n, do_sample=False)\n"
        "g = og.Generator(model, params); g.append_tokens(ids)\n"
        "while not g.is_done(): g.generate_next_token()\n"
        "print(list(map(int, g.get_sequence(0)))[len(ids):])\n"
    )
    ids, tokens, _ = native
    command = [sys.executable, "-c", script, str(artifact.path), str(ids), str(len(tokens))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == str(tokens), done.stderr[-2000:]


def test_mlx_lm_generate_prints_the_native_text(bundle: Path, native: tuple[list[int], list[int], str]) -> None:
    artifact = export(bundle, "mlx", overwrite=True)
    command = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(artifact.path), "--prompt", PROMPT]
    command += ["--max-tokens", str(COUNT), "--temp", "0", "--ignore-chat-template"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert native[2].strip() in done.stdout, done.stdout + done.stderr[-2000:]
