"""Encoders and rerankers compute what transformers computes: hidden states, vectors and scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from edgekit.arch import encoder_model_types
from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.reference import Reference
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders, tiny

TOLERANCE = 1e-4  # f32: only the order of additions differs


def ids_of(count: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 99, count).tolist())


def oracle(model: torch.nn.Module, ids: tuple[int, ...], types: tuple[int, ...] = ()) -> np.ndarray:
    """Hidden states [tokens, hidden], or [1] score, by transformers."""
    more = {"token_type_ids": torch.tensor([types])} if types else {}
    with torch.no_grad():
        out = model(torch.tensor([ids]), **more)
    states = getattr(out, "last_hidden_state", None)
    return (out.logits if states is None else states)[0].numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def types_of(name: str, count: int) -> tuple[int, ...]:
    """Token types as of a pair, of models that know two."""
    if not name.startswith(("bert", "nomic")):
        return ()
    return tuple(int(t > count // 2) for t in range(count))


@pytest.mark.parametrize("name", sorted(encoders.MAKERS))
def test_hidden_states_match_transformers(name: str, tmp_path: Path) -> None:
    model = encoders.make(name, tmp_path / "checkpoint")
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    reference = Reference(path)
    with Session(path) as session:
        for count in (1, 2, 31, 60):
            ids, types = ids_of(count), types_of(name, count)
            want = oracle(model, ids, types)
            (got,) = session.embed([TokenText(ids, types)], states=True).states
            assert np.abs(got - want).max() <= TOLERANCE
            assert np.abs(reference.states(ids, types=types) - want).max() <= TOLERANCE


@pytest.mark.parametrize("name", sorted(encoders.SCORERS))
def test_scores_match_transformers(name: str, tmp_path: Path) -> None:
    model = encoders.make(name, tmp_path / "checkpoint", scores=True)
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    texts = [TokenText(ids_of(n, n), types_of(name, n)) for n in (2, 9, 40)]
    want = [oracle(model, t.ids, t.types)[0] for t in texts]
    with Session(path) as session:
        got = session.embed(texts).scores
    assert np.abs(got - want).max() <= TOLERANCE
    assert np.abs([Reference(path).score(t.ids, t.types) for t in texts] - np.array(want)).max() <= TOLERANCE


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mode", ["cls", "mean", "max", "lasttoken"])
def test_folders_of_sentence_transformers_say_how_to_pool(mode: str, normalize: bool, tmp_path: Path) -> None:
    model = encoders.make("bert", tmp_path / "checkpoint")
    encoders.add_modules(tmp_path / "checkpoint", mode, normalize)
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    ids = ids_of(23)
    states = torch.from_numpy(oracle(model, ids))
    pooled = {"cls": states[0], "mean": states.mean(0), "max": states.max(0).values, "lasttoken": states[-1]}[mode]
    want = torch.nn.functional.normalize(pooled, dim=0).numpy() if normalize else pooled.numpy()
    with Session(path) as session:
        (got,) = session.embed([TokenText(ids)]).vectors
    assert np.abs(got - want).max() <= TOLERANCE
    assert np.abs(Reference(path).vector(ids) - want).max() <= TOLERANCE


def test_texts_together_give_what_each_gives_alone(tmp_path: Path) -> None:
    encoders.make("modernbert", tmp_path / "checkpoint")
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    texts = [TokenText(ids_of(n, n)) for n in (1, 60, 5, 17, 17, 3, 64, 2)]
    with Session(path, Options(context=64)) as session:
        together = session.embed(texts, states=True)
        alone = [session.embed([t], states=True) for t in texts]
    for i, one in enumerate(alone):
        assert np.abs(together.states[i] - one.states[0]).max() <= TOLERANCE
        assert np.abs(together.vectors[i] - one.vectors[0]).max() <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_in_such_a_folder_gives_the_vector_of_the_last_token(tied: bool, tmp_path: Path) -> None:
    config = tiny.MAKERS["qwen3"]()
    config.tie_word_embeddings = tied
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config, dtype=torch.float32).eval()  # without a head
    model.save_pretrained(tmp_path / "checkpoint")
    encoders.add_modules(tmp_path / "checkpoint", "lasttoken", length=64, prompts={"query": "x"})
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    ids = ids_of(40)
    want = torch.nn.functional.normalize(torch.from_numpy(oracle(model, ids))[-1], dim=0).numpy()
    with Session(path, Options(cache_type="f32", batch=7)) as session:
        got = session.embed([TokenText(ids)]).vectors[0]
        assert np.abs(got - want).max() <= TOLERANCE
        if tied:
            session.eval(ids)  # it can write too
        else:
            with pytest.raises(RuntimeFailure, match="writes none"):
                session.eval(ids)
    assert np.abs(Reference(path).vector(ids) - want).max() <= TOLERANCE


def test_every_family_of_encoders_has_a_tiny_model() -> None:
    assert {encoders.model_type(name) for name in encoders.MAKERS} == set(encoder_model_types())


@pytest.mark.parametrize("name", sorted(encoders.MAKERS))
def test_a_plain_checkpoint_gives_no_warning(name: str, tmp_path: Path) -> None:
    encoders.make(name, tmp_path / "plain")
    assert describe_checkpoint(open_checkpoint(tmp_path / "plain"))[1] == ()
    if name in encoders.SCORERS:
        encoders.make(name, tmp_path / "scores", scores=True)
        assert describe_checkpoint(open_checkpoint(tmp_path / "scores"))[1] == ()


def test_heads_of_pre_training_are_left_out_without_a_word(tmp_path: Path) -> None:
    config = encoders.MAKERS["bert"]()
    transformers.BertForPreTraining(config).save_pretrained(tmp_path)
    model, lines = describe_checkpoint(open_checkpoint(tmp_path))
    assert lines == ()
    assert (model.output, model.head) == ("embedding", None)


def test_older_configs_mean_the_same(tmp_path: Path) -> None:
    encoders.make("modernbert", tmp_path / "modernbert")
    encoders.make("nomic_bert", tmp_path / "nomic")
    for folder, change in (
        (
            "modernbert",
            {
                "layer_types": ...,
                "rope_parameters": ...,
                "global_attn_every_n_layers": 3,
                "global_rope_theta": 160000.0,
                "local_rope_theta": 10000.0,
                "position_embedding_type": "absolute",
            },
        ),
        (
            "nomic",
            {
                **dict.fromkeys(["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"], ...),
                **dict.fromkeys(["max_position_embeddings", "layer_norm_eps", "rope_parameters", "head_dim"], ...),
                **{"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 96, "n_positions": 64, "rotary_emb_base": 1000},
                **{"layer_norm_epsilon": 1e-12, "activation_function": "swiglu", "rotary_emb_fraction": 1.0},
            },
        ),
    ):
        file = tmp_path / folder / "config.json"
        want = describe_checkpoint(open_checkpoint(file.parent))
        table = json.loads(file.read_text()) | change
        file.write_text(json.dumps({k: v for k, v in table.items() if v is not ...}))
        assert describe_checkpoint(open_checkpoint(file.parent)) == want
