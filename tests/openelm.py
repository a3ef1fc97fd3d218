"""OpenELM in torch, for parity: transformers has no class for it, its own code lives on the hub.

Written from the paper (arXiv 2404.14619) and the published modeling file's behaviour: RMS norms, heads
and FFN sizes that differ by layer, normalised queries and keys, rotary positions, gated FFN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "model_type": "openelm",
    "vocab_size": 199,
    "model_dim": 64,
    "head_dim": 16,
    "num_transformer_layers": 3,
    "num_query_heads": [2, 4, 6],
    "num_kv_heads": [1, 2, 2],
    "ffn_multipliers": [0.5, 1.3, 2.0],
    "ffn_dim_divisor": 32,
    "max_context_length": 128,
    "rope_freq_constant": 10000,
    "normalize_qk_projections": True,
    "share_input_output_layers": True,
    "activation_fn_name": "swish",
    "ffn_with_glu": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FFN = [32, 96, 128]  # multipliers times 64, to the nearest multiple of 32


def make(folder: Path) -> dict[str, torch.Tensor]:
    """Saves a random checkpoint and returns its tensors."""
    torch.manual_seed(0)
    c = CONFIG
    d, width = c["head_dim"], c["model_dim"]
    t: dict[str, torch.Tensor] = {"transformer.token_embeddings.weight": torch.randn(c["vocab_size"], width)}
    for i in range(c["num_transformer_layers"]):
        at = f"transformer.layers.{i}."
        q, kv = c["num_query_heads"][i], c["num_kv_heads"][i]
        t[at + "attn.qkv_proj.weight"] = torch.randn((q + 2 * kv) * d, width) * 0.1
        t[at + "attn.out_proj.weight"] = torch.randn(width, q * d) * 0.1
        t[at + "attn.q_norm.weight"] = 1 + torch.randn(d) * 0.1
        t[at + "attn.k_norm.weight"] = 1 + torch.randn(d) * 0.1
        t[at + "ffn.proj_1.weight"] = torch.randn(2 * FFN[i], width) * 0.1
        t[at + "ffn.proj_2.weight"] = torch.randn(width, FFN[i]) * 0.1
        t[at + "attn_norm.weight"] = 1 + torch.randn(width) * 0.1
        t[at + "ffn_norm.weight"] = 1 + torch.randn(width) * 0.1
    t["transformer.norm.weight"] = 1 + torch.randn(width) * 0.1
    folder.mkdir(parents=True)
    save_file(t, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return t


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def _rotate(x: torch.Tensor) -> torch.Tensor:  # [heads, n, d]
    n, d = x.shape[-2:]
    inv = 1.0 / 10000 ** (torch.arange(0, d, 2).float() / d)
    angle = torch.outer(torch.arange(n).float(), inv)
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def forward(t: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Logits [len(ids), vocab]."""
    d = CONFIG["head_dim"]
    x = t["transformer.token_embeddings.weight"][ids]
    for i in range(CONFIG["num_transformer_layers"]):
        at = f"transformer.layers.{i}."
        q_heads, kv = CONFIG["num_query_heads"][i], CONFIG["num_kv_heads"][i]
        y = _norm(x, t[at + "attn_norm.weight"]) @ t[at + "attn.qkv_proj.weight"].T
        q, k, v = y.view(len(ids), -1, d).transpose(0, 1).split([q_heads, kv, kv])
        q = _rotate(_norm(q, t[at + "attn.q_norm.weight"]))
        k = _rotate(_norm(k, t[at + "attn.k_norm.weight"]))
        k, v = (z.repeat_interleave(q_heads // kv, 0) for z in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(len(ids), -1)
        x = x + mixed @ t[at + "attn.out_proj.weight"].T
        gate, up = (_norm(x, t[at + "ffn_norm.weight"]) @ t[at + "ffn.proj_1.weight"].T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ t[at + "ffn.proj_2.weight"].T
    return _norm(x, t["transformer.norm.weight"]) @ t["transformer.token_embeddings.weight"].T
