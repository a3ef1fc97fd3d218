"""Full-size synthetic checkpoints: real shapes, random weights, written without holding the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DEMO = Path(__file__).parents[1] / "examples" / "demo_model" / "checkpoint"

# The shape of TinyLlama 1.1B.
LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors, in order."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (hidden,)
        yield at + "self_attn.q_proj.weight", (hidden, hidden)
        yield at + "self_attn.k_proj.weight", (kv, hidden)
        yield at + "self_attn.v_proj.weight", (kv, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, hidden)
        yield at + "post_attention_layernorm.weight", (hidden,)
        yield at + "mlp.gate_proj.weight", (ffn, hidden)
        yield at + "mlp.up_proj.weight", (ffn, hidden)
        yield at + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def weights(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Random f16 weights of a tensor: norms near one, the rest normal with deviation 0.02."""
    rng = np.random.default_rng([seed, *name.encode()])
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    return (values + 1 if len(shape) == 1 else values).astype(np.float16)


Values = Callable[[str, tuple[int, ...]], "np.ndarray[Any, np.dtype[np.float16]]"]


def make_checkpoint(folder: Path, config: dict[str, Any] | None = None, shards: int = 2) -> None:
    """Writes a sharded f16 checkpoint of random weights, one tensor at a time."""
    config = config or LLAMA_1B
    write_checkpoint(folder, config, list(llama_shapes(config)), lambda name, shape: weights(name, shape, 0), shards)


def write_checkpoint(
    folder: Path, config: dict[str, Any], tensors: list[tuple[str, tuple[int, ...]]], values: Values, shards: int = 2
) -> None:
    """Writes a sharded f16 checkpoint whose tensors come from `values`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    per = -(-len(tensors) // shards)
    weight_map = {}
    for s in range(shards):
        mine = tensors[s * per : (s + 1) * per]
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        header, at = {}, 0
        for name, shape in mine:
            size = 2 * int(np.prod(shape))
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
            weight_map[name] = file
            at += size
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(raw).to_bytes(8, "little") + raw)
            for name, shape in mine:
                out.write(np.ascontiguousarray(values(name, shape)).data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
