"""Chat templates that lie in a folder of their own reach whatever is made of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.conversion import convert
from edgekit.generate.tokenizer import Tokenizer
from edgekit.verify import verify
from tests.conftest import DEMO


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEMO, folder)
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    (folder / "additional_chat_templates" / "notes.txt").write_text("no template")
    return folder


def test_a_bundle_has_the_additional_chat_templates(checkpoint: Path, tmp_path: Path) -> None:
    bundle = convert(checkpoint, tmp_path / "m", "q4").path
    verify(bundle)
    tokenizer = Tokenizer(bundle / "tokenizer")
    messages = [{"role": "user", "content": "x"}]
    assert tokenizer.chat(messages, tools=[]) == "with tools"
    assert tokenizer.chat(messages) == "plain"
    folder = bundle / "tokenizer" / "additional_chat_templates"
    assert [p.name for p in folder.iterdir()] == ["tool_use.jinja"]
    (folder / "tool_use.jinja").write_text("damaged")
    with pytest.raises(Exception, match=r"tool_use\.jinja"):
        verify(bundle)


def test_an_artifact_has_the_additional_chat_templates(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    from edgekit.converters.base import export, read, verify

    bundle = convert(checkpoint, tmp_path / "m", "q4").path
    export(bundle, "onnx")
    artifact = read(bundle, "onnx")
    verify(artifact)
    assert [p.name for p in artifact.path.rglob("*.jinja")].count("tool_use.jinja") == 1


def test_relufy_keeps_the_additional_chat_templates(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from edgekit.train.relufy import Surgery, Tuning, relufy

    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join("Once upon a time there was a little girl named Lily. " * 3 for _ in range(9)))
    relufy(checkpoint, tmp_path / "relu", [text], Surgery(), Tuning(2, 2, 32, device="cpu"))
    assert (tmp_path / "relu" / "additional_chat_templates" / "tool_use.jinja").read_text() == "with tools"
