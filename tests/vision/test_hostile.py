"""Forged bundles, forged settings and files that are no pictures: one line, never a crash."""

from __future__ import annotations

import copy
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgekit.arch.checkpoints import vision_of
from edgekit.bundle.manifest import sign
from edgekit.checkpoint import open_checkpoint
from edgekit.cli.main import cli
from edgekit.conversion import convert
from edgekit.errors import EdgekitError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.pictures.preparing import patches_of, positions_of
from edgekit.pictures.prompt import seeing_prompt
from edgekit.pictures.reading import read_picture
from edgekit.pictures.sight import Sight
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from edgekit.verify import verify
from tests import pictures, tiny
from tests.hostile.test_blocks import VALUES, places

MORE: list[Any] = [*VALUES, False, 4, 48, 1 << 23, "mean", "image", "layers.0.q", "position"]


def forge(file: Path, whole: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    forged = copy.deepcopy(whole)
    holder = forged["model"]
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    file.write_bytes(sign(forged))


def refuses(call: Callable[[], Any]) -> bool:
    """Whether a call fails, which it does with one line."""
    try:
        call()
    except EdgekitError as error:
        text = str(error)
    else:
        return False
    assert len(text.splitlines()) == 1
    return True


def failure_of(*arguments: str) -> str:
    """What a command that fails says, which is one line."""
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code != 0
    if isinstance(done.exception, SystemExit):  # a wrong use of the command line, with a hint how it is used
        return done.stderr.strip().splitlines()[-1]
    assert isinstance(done.exception, EdgekitError)
    assert len(str(done.exception).splitlines()) == 1
    return str(done.exception)


def parsed(file: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(file.read_text())
    del whole["checksum"]
    return whole


def encode(bundle: Path, values: np.ndarray) -> None:
    with Session(bundle, Options(ram="64MB")) as session:
        session.encode(values, np.arange(len(values)) % 16)


@pytest.mark.parametrize("name", ["gemma3", "lfm2_vl"])
def test_every_member_of_an_encoder_may_be_anything(name: str, sighted: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "vision"
    shutil.copytree(sighted(name).bundle / "vision", bundle)
    file = bundle / "manifest.json"
    whole = parsed(file)
    patch = whole["matrices"][0]["parts"][0]["cols"]
    count = 8 * whole["model"]["merge"]["patches"]
    values = np.ones((min(count, whole["model"]["max_context"]), patch), dtype=np.float32)
    paths: list[tuple[Any, ...]] = [("output",), ("max_context",), ("hidden_size",), ("blocks",), ("final_norm",)]
    paths += [("blocks", 0, "causal"), ("blocks", 1, "size"), ("vocab_size",), ("pooling",)]
    for part in ("head", "merge", "embedding"):
        paths += [(part,), *((part, *p) for p in places(whole["model"][part]))]
    opened = refused = 0
    for path in paths:
        for value in MORE:
            forge(file, whole, path, value)
            failed = refuses(lambda: encode(bundle, values))
            refused += failed
            opened += not failed
    assert opened > 0
    assert refused > 2 * len(paths)


@pytest.mark.parametrize("name", ["idefics3", "gemma3", "lfm2_vl"])
def test_every_member_of_pictures_may_be_anything(name: str, sighted: Any, photos: list[Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.edgekit"
    shutil.copytree(sighted(name).bundle, bundle)
    file = bundle / "manifest.json"
    whole = parsed(file)
    told = whole["model"]["pictures"]
    paths = [("pictures",), *(("pictures", *p) for p in places(told))]
    tokenizer = Tokenizer(bundle / "tokenizer")

    def read() -> None:
        sight = Sight(bundle, parsed(file)["model"])
        seeing_prompt("What?", sight.look(photos[:1], Options(), "64MB"), tokenizer, sight.told)

    refused = 0
    for path in paths:
        for value in [*VALUES[::2], 0, 1 << 30, 1e300, ["x"], {"longest_edge": 512}]:
            forge(file, whole, path, value)
            refused += refuses(read)
    assert refused > 3 * len(paths)


def test_what_calls_are_refused(sighted: Any) -> None:
    bundle = sighted("idefics3").bundle
    pixels = np.zeros((3, 32, 32), dtype=np.float32)
    patches, positions = patches_of(pixels, 8, 2), positions_of(4, 4, 4, 2)
    with Session(bundle / "vision") as session:
        for values, at in (
            (patches[:3], positions[:3]),
            (patches[:0], positions[:0]),
            (patches[:, :100], positions),
            (patches, positions + 1),
            (patches, positions[:4]),
            (np.concatenate([patches] * 2), np.concatenate([positions] * 2)),
            (np.full_like(patches, np.nan), positions),
        ):
            with pytest.raises(EdgekitError):
                session.encode(values, at)
        for call in (
            lambda: session.eval([1]),
            lambda: session.next(Sampling()),
            lambda: session.save("x"),
            lambda: session.read([1]),
        ):
            with pytest.raises(EdgekitError):
                call()
        assert session.tokens == []
        assert session.encode(patches, positions).shape == (4, 64)
        for added in (
            np.zeros((16, 40), np.float32),
            np.zeros((15, 48), np.float32),
            np.full((16, 48), np.inf, np.float32),
        ):
            with pytest.raises(EdgekitError):
                session.encode(patches, None, added)
        with pytest.raises(EdgekitError):
            session.encode(patches, None)
        assert session.encode(patches, None, np.zeros((16, 48), np.float32)).shape == (4, 64)
    with Session(bundle, Options(context=64)) as session, pytest.raises(EdgekitError, match="reads no pictures"):
        session.encode(patches, positions)


def png_of_size(width: int, height: int) -> bytes:
    """The beginning of a picture that says to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")
    )


def test_files_that_are_no_pictures(sighted: Any, tmp_path: Path) -> None:
    bundle = sighted("idefics3").bundle
    whole = io.BytesIO()
    pictures.picture(40, 30).save(whole, "JPEG")
    tall = io.BytesIO()
    Image.new("RGB", (1, 2000)).save(tall, "PNG")
    contents = {
        "empty.png": b"",
        "text.png": b"not a picture",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
        "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "huge.png": png_of_size(60_000, 60_000),
        "cut.jpg": whole.getvalue()[:300],
        "cut.png": png_of_size(64, 64),
        "long.png": tall.getvalue(),
        "zero.gif": b"GIF89a\0\0\0\0\0\0\0",
    }
    arguments = ["run", str(bundle), "-p", "What?", "-n", "2", "--chat", "--image"]
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert name in failure_of(*arguments, str(path))
    for path in (tmp_path / "missing.png", tmp_path):
        assert "cannot be read" in failure_of(*arguments, str(path))


def test_pictures_of_any_mode_are_read() -> None:
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK", "I;16"):
        file = io.BytesIO()
        Image.new(mode, (8, 6)).save(file, "TIFF" if mode == "CMYK" else "PNG")
        assert read_picture(file.getvalue()).size == (8, 6)


def test_models_that_see_nothing_say_so(sighted: Any, photos: list[Path], tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "blind")
    pictures.add_tokenizer(tmp_path / "blind", pictures.TEMPLATE)
    blind = convert(tmp_path / "blind", tmp_path / "bundle", "f32").path
    text_only = convert(sighted("idefics3").checkpoint, tmp_path / "text", "f32", text_only=True)
    assert "--text-only" in text_only.warnings[0]
    assert not (text_only.path / "vision").exists()
    for bundle in (blind, text_only.path):
        assert "sees no pictures" in failure_of("run", str(bundle), "-p", "What?", "--image", str(photos[0]))


def test_the_wrong_number_of_pictures(sighted: Any, photos: list[Path]) -> None:
    bundle = sighted("idefics3").bundle
    assert "2 places" in failure_of("run", str(bundle), "-p", "<image><image>", "--image", str(photos[0]))
    for more, why in ((["--backend", "onnx"], "native backend"), (["--prompt-cache", "x"], "keeps tokens")):
        assert why in failure_of("run", str(bundle), "-p", "What?", "--image", str(photos[0]), *more)


def test_forged_checkpoints(sighted: Any, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(sighted("idefics3").checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    refused = 0

    def describe() -> None:
        vision_of(open_checkpoint(folder))

    forged = [
        {**config, key: value} for key in ("scale_factor", "image_token_id") for value in [*VALUES, 0, 3, 1 << 30]
    ]
    for key in config["vision_config"]:
        forged += [{**config, "vision_config": {**config["vision_config"], key: value}} for value in [*VALUES, 64]]
    for one in forged:
        (folder / "config.json").write_text(json.dumps(one))
        refused += refuses(describe)
    assert refused > len(forged) / 2
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    for key in settings:
        for value in [*VALUES, {"a": {}}, [[]], "x" * 1000]:
            (folder / "preprocessor_config.json").write_text(json.dumps({**settings, key: value}))
            refuses(describe)


def test_verify_and_inspect_look_at_the_encoder(sighted: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.edgekit"
    shutil.copytree(sighted("gemma3").bundle, bundle)
    assert verify(bundle).units > 0
    done = CliRunner().invoke(cli, ["inspect", str(bundle)])
    assert "pictures (gemma3), 16 tokens for a tile" in done.stdout
    assert CliRunner().invoke(cli, ["inspect", str(bundle / "vision")]).exit_code == 0
    with (bundle / "vision" / "resident.bin").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(EdgekitError, match=r"resident\.bin"):
        verify(bundle)
