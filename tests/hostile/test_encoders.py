"""Forged encoders and folders of sentence-transformers: one line that says what is wrong, never a crash."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.manifest import sign
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import CheckpointError, EdgekitError, UnsupportedModelError
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders
from tests.hostile.test_blocks import VALUES, places

MORE: list[Any] = [*VALUES, False, 64, 65, "token_types", "mean", "score", "layers.0.q"]


def attempt(bundle: Path, typed: bool) -> str:
    """Reads texts with a bundle; the error's text, or none."""
    try:
        with Session(bundle, Options(context=16, ram="64MB")) as session:
            session.embed([TokenText((5, 6, 7)), TokenText((8,))])
            if typed:
                session.embed([TokenText((5, 6), (0, 1))])
    except EdgekitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_every_member_may_be_anything(name: str, tmp_path: Path) -> None:
    encoders.make(name, tmp_path / "checkpoint", scores=True)
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    file = bundle / "manifest.json"
    whole = json.loads(file.read_text())
    del whole["checksum"]
    paths: list[tuple[Any, ...]] = [("output",), ("max_context",)]
    paths += [("blocks", 0, "causal"), ("blocks", 1, "causal"), ("blocks", 2, "window")]
    for part in ("head", "pooling", "embedding"):
        paths += [(part,), *((part, *p) for p in places(whole["model"][part]))]
    opened = refused = 0
    for path in paths:
        for value in MORE:
            forged = copy.deepcopy(whole)
            holder = forged["model"]
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            file.write_bytes(sign(forged))
            error = attempt(bundle, name == "bert")
            assert len(error.splitlines()) <= 1
            refused += bool(error)
            opened += not error
    assert opened > 0
    assert refused > len(paths)


def described(folder: Path) -> Any:
    return describe_checkpoint(open_checkpoint(folder))[0]


def edit(file: Path, **change: Any) -> None:
    table = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (table | change).items() if v is not ...}))


FOLDERS: list[tuple[str, Any, str]] = [
    ("modules.json", "{", "not valid JSON"),
    ("modules.json", {}, "not a list of modules"),
    ("modules.json", [5], "not a list of modules"),
    ("modules.json", [{"path": ""}], "no type"),
    ("modules.json", [{"type": "a.Transformer", "path": "../x"}], "not a plain folder name"),
    ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "x.Dense", "path": "d"}], "'Dense'"),
    ("modules.json", [{"type": "a.Transformer", "path": "gone"}], "no config.json"),
    ("modules.json", [{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "gone"}], "cannot read"),
    ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
    ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "at a time"),
    ("1_Pooling/config.json", {}, "no mode"),
    ("1_Pooling/config.json", {"pooling_mode": "sum"}, "sum"),
    ("1_Pooling/config.json", {"pooling_mode": [{"a": 1}]}, "computes one of"),
    ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
    ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length"),
    ("sentence_bert_config.json", {"max_seq_length": "9" * 500}, "max_seq_length"),
    ("sentence_bert_config.json", [], "not a JSON object"),
    ("config_sentence_transformers.json", {"prompts": [1]}, "prompts"),
    ("config_sentence_transformers.json", {"prompts": {"q": 5}}, "prompts"),
    ("config_sentence_transformers.json", {"prompts": {"q": "x" * 5000}}, "prompts"),
    ("config_sentence_transformers.json", {"prompts": {"q": "x"}, "default_prompt_name": "y"}, "default_prompt_name"),
    ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": []}, "default_prompt_name"),
]


@pytest.mark.parametrize(("name", "content", "reason"), FOLDERS)
def test_folders_that_make_no_sense_are_refused_in_a_line(name: str, content: Any, reason: str, tmp_path: Path) -> None:
    encoders.make("bert", tmp_path)
    encoders.add_modules(tmp_path, prompts={})
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises((CheckpointError, UnsupportedModelError), match=reason) as caught:
        described(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


CONFIGS: list[tuple[str, bool, dict[str, Any], str]] = [
    ("bert", False, {"hidden_size": 0}, "hidden_size"),
    ("bert", False, {"num_attention_heads": 5}, "5 heads"),
    ("bert", False, {"hidden_act": "strange"}, "hidden_act"),
    ("bert", False, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("bert", False, {"is_decoder": True}, "is_decoder"),
    ("bert", False, {"type_vocab_size": 7}, "token_type_embeddings"),
    ("bert", False, {"layer_norm_eps": "x"}, "layer_norm_eps"),
    ("bert", False, {"max_position_embeddings": 1 << 30}, "max_position_embeddings"),
    ("roberta", False, {"pad_token_id": -1}, "pad_token_id"),
    ("roberta", False, {"pad_token_id": 63}, "none of the 64 positions"),
    ("roberta", False, {"pad_token_id": None}, "pad_token_id"),
    ("bert", True, {"sentence_transformers": {"activation_fn": "os.system"}}, "os.system"),
    ("modernbert", False, {"norm_bias": True}, "norm_bias"),
    ("modernbert", False, {"local_attention": -4}, "local_attention"),
    ("modernbert", False, {"layer_types": ["full_attention"]}, "layer_types"),
    ("modernbert", True, {"classifier_pooling": "sum"}, "classifier_pooling"),
    ("modernbert", True, {"classifier_activation": "strange"}, "classifier_activation"),
    ("nomic_bert", False, {"prenorm": True}, "prenorm"),
    ("nomic_bert", False, {"architectures": ["NomicBertForSequenceClassification"]}, "scores of nomic_bert"),
]


@pytest.mark.parametrize(("name", "scores", "change", "reason"), CONFIGS)
def test_configs_that_make_no_sense_are_refused_in_a_line(
    name: str, scores: bool, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    encoders.make(name, tmp_path, scores)
    edit(tmp_path / "config.json", **change)
    with pytest.raises((CheckpointError, UnsupportedModelError), match=reason) as caught:
        described(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_several_labels_is_refused(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path, scores=True)
    from safetensors.numpy import load_file, save_file

    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.weight"] = tensors["classifier.weight"].repeat(3, axis=0)
    save_file(tensors, file)
    with pytest.raises(UnsupportedModelError, match="3 labels"):
        described(tmp_path)
