"""Damaged bundles through the Python face: an error, never another text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.bundle.manifest import sign
from edgekit.cli.main import main
from edgekit.errors import BundleError, EdgekitError
from edgekit.runtime.values import Sampling
from edgekit.verify import verify
from tests.conftest import DEMO

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgekit.convert(DEMO, tmp_path_factory.mktemp("whole") / "demo", recipe="palette4").path


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "demo.edgekit"))


def text(bundle: Path) -> str:
    with edgekit.load(bundle, context=32) as model:
        return "".join(p.text for p in model.generate("Once upon a time", 12, GREEDY))


def test_flipped_bytes_of_every_file_are_found(bundle: Path) -> None:
    want = text(bundle)
    rng = np.random.default_rng(0)
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        original = file.read_bytes()
        for at in rng.integers(0, len(original), 12):
            damaged = bytearray(original)
            damaged[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(BundleError):
                verify(bundle)
            try:
                assert text(bundle) == want  # padding between tensors, which nobody reads
                assert file.suffix == ".bin"
            except EdgekitError:
                pass
        file.write_bytes(original)
    assert text(bundle) == want


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("change", [Path.unlink, cut])
def test_missing_and_truncated_files_are_found(change: Callable[[Path], None], bundle: Path) -> None:
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        original = file.read_bytes()
        change(file)
        with pytest.raises(BundleError):
            verify(bundle)
        with pytest.raises(BundleError):
            text(bundle)
        file.write_bytes(original)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files=None),
        lambda m: m.update(version=2),
        lambda m: m["resident"].update(file="../resident.bin"),
        lambda m: m["matrices"][0].update(rows=1 << 23),
        lambda m: m["matrices"][0].update(offset=1 << 45),
        lambda m: m["matrices"][0]["parts"][0].update(codec="mystery"),
        lambda m: m["model"]["blocks"][0].update(kind="mystery"),
    ],
)
def test_forged_manifests_are_refused(
    change: Callable[[dict[str, object]], None], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data.pop("checksum")
    change(data)
    path.write_bytes(sign(data))
    for command in (["verify", str(bundle)], ["run", str(bundle), "-p", "Once", "-n", "2"]):
        assert main(command) == 1
        assert capsys.readouterr().err.startswith("edgekit: ")


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "tokenizer/../../x"])
def test_listed_files_cannot_lie_outside_the_bundle(path: str, bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    data = json.loads(manifest.read_text())
    data.pop("checksum")
    data["files"].append({"path": path, "bytes": 1, "sha256": ""})
    manifest.write_bytes(sign(data))
    with pytest.raises(BundleError, match="outside the bundle"):
        verify(bundle)
