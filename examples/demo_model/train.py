"""Trains edgekit's demo model: a small Llama-shaped decoder whose FFN activation is ReLU.

    python examples/demo_model/train.py --data ../shared/data/text --out /tmp/demo --minutes 60

ReLU makes most FFN neurons exactly zero for any one token, which is what neuron windowing lives on.
A small L1 term on the gate pushes sparsity further at little cost in perplexity (ProSparse, arXiv
2402.13516, does the same with a growing factor). The run can be interrupted: `--out/train.pt` holds
everything needed to go on, and calling the same command again resumes.

Output: `--out/checkpoint/`, a Hugging Face style folder in f16 that transformers loads unchanged.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; hidden and FFN are multiples of 256 so that every peer's format applies."""

    vocab: int = 2048
    hidden: int = 256
    ffn: int = 1024
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    context: int = 512

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions in the half-split form of Llama."""

    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.s, self.dropout = s, dropout
        kv = s.kv_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden, s.hidden, bias=False)
        self.k_proj = nn.Linear(s.hidden, kv, bias=False)
        self.v_proj = nn.Linear(s.hidden, kv, bias=False)
        self.o_proj = nn.Linear(s.hidden, s.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # x [B, T, hidden]
        b, t, _ = x.shape
        s = self.s
        q = self.q_proj(x).view(b, t, s.heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, s.kv_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, s.kv_heads, s.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = s.heads // s.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(b, t, s.hidden))
        return out


class Mlp(nn.Module):
    """Gated FFN with ReLU on the gate; keeps what the L1 term and the sparsity count need."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.ffn, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.ffn, bias=False)
        self.down_proj = nn.Linear(s.ffn, s.hidden, bias=False)
        self.l1: Tensor = torch.zeros(())
        self.zeros = 0.0

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.gate_proj(x))
        self.l1 = gate.float().mean()
        if not self.training:
            self.zeros = float((gate == 0).float().mean())
        out: Tensor = self.down_proj(gate * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.self_attn = Attention(s, dropout)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.mlp = Mlp(s)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.drop(self.self_attn(self.input_layernorm(x), cos, sin))
        out: Tensor = x + self.drop(self.mlp(self.post_attention_layernorm(x)))
        return out


class Decoder(nn.Module):
    """Parameter names follow LlamaForCausalLM, so that the state dict is the checkpoint."""

    def __init__(self, s: Shape, dropout: float) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s, dropout) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, eps=1e-5)
        self.drop = nn.Dropout(dropout)
        inv = 1.0 / 10000.0 ** (torch.arange(0, s.head_dim, 2).float() / s.head_dim)
        angle = torch.outer(torch.arange(s.context).float(), inv)
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                depth = 2 * s.layers if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(p, std=0.04 / math.sqrt(depth))

    def forward(self, ids: Tensor) -> Tensor:  # ids [B, T] -> logits [B, T, vocab]
        t = ids.shape[1]
        x = self.drop(self.embed_tokens(ids))
        cos, sin = self.cos[:t].to(x.dtype), self.sin[:t].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), dim=-1) * sin.to(x.dtype)


def documents(data: Path) -> tuple[list[str], list[str]]:
    """Training and held-out documents: TinyStories (train / valid) and whole FairytaleQA tales."""

    def stories(name: str) -> list[str]:
        lines = (data / name).read_text().splitlines()
        return [json.loads(line)["text"].strip() for line in lines if line.strip()]

    tales: dict[str, list[str]] = {}
    with (data / "fairytales_train.csv").open(newline="") as f:
        for row in csv.DictReader(f):
            tales.setdefault(row["document_id"], []).append(row["text"].strip())
    train = stories("tinystories_train.jsonl") + [" ".join(t) for t in tales.values()]
    return train, stories("tinystories_valid.jsonl")


def train_tokenizer(texts: list[str], vocab: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def flatten(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    eos = tokenizer.token_to_id(EOS)
    rows = [[*e.ids, eos] for e in tokenizer.encode_batch(texts)]
    return np.array([i for row in rows for i in row], dtype=np.int64)


@torch.no_grad()
def evaluate(model: Decoder, tokenizer: Tokenizer, texts: list[str]) -> dict[str, object]:
    """Perplexity per document with BOS (context-limited), bits per byte, and zeros per layer."""
    model.eval()
    nats, tokens, size = 0.0, 0, 0
    zeros = np.zeros(len(model.layers))
    for text in texts:
        ids = torch.tensor(tokenizer.encode(text).ids[: model.s.context])[None]
        logits = model(ids)[:, :-1].float()
        nats += float(F.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
        size += len(tokenizer.decode(ids[0].tolist()).encode())
        zeros += np.array([layer.mlp.zeros for layer in model.layers]) * (ids.shape[1] - 1)
    model.train()
    return {
        "perplexity": round(math.exp(nats / tokens), 3),
        "bits_per_byte": round(nats / math.log(2) / size, 4),
        "ffn_sparsity": [round(float(z), 4) for z in zeros / tokens],
    }


def export(model: Decoder, tokenizer: Tokenizer, out: Path) -> None:
    s = model.s
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(EOS)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "relu",
        "hidden_size": s.hidden,
        "intermediate_size": s.ffn,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "vocab_size": s.vocab,
        "max_position_embeddings": s.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        **ids,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": s.context,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(tokens, indent=2) + "\n")


def batches(data: np.ndarray, length: int, size: int, rng: np.random.Generator) -> Tensor:
    start = rng.integers(0, len(data) - length - 1, size)
    return torch.from_numpy(np.stack([data[i : i + length + 1] for i in start]))


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up over the first 3%, then cosine to a twentieth of the peak."""
    if progress < 0.03:
        return peak * progress / 0.03
    return peak * (0.05 + 0.475 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97)))


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("--data", type=Path, default=Path("../shared/data/text"))
    cli.add_argument("--out", type=Path, required=True)
    cli.add_argument("--minutes", type=float, default=60.0)
    cli.add_argument("--batch", type=int, default=16)
    cli.add_argument("--length", type=int, default=256)
    cli.add_argument("--lr", type=float, default=2e-3)
    cli.add_argument("--l1", type=float, default=0.1)
    cli.add_argument("--dropout", type=float, default=0.1)
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--seed", type=int, default=0)
    a = cli.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    train_texts, valid_texts = documents(a.data)
    tokenizer = train_tokenizer(train_texts, shape.vocab)
    order = np.random.default_rng(0).permutation(len(train_texts))
    data = flatten(tokenizer, [train_texts[i] for i in order])
    model = Decoder(shape, a.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.95), weight_decay=0.1)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(data)} training tokens")

    state, step, spent = a.out / "train.pt", 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
        rng = np.random.default_rng(a.seed + step)
    began, shown = time.time() - spent, time.time()
    while (spent := time.time() - began) < a.minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent / (a.minutes * 60), a.lr)
        batch = batches(data, a.length, a.batch, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        l1 = torch.stack([layer.mlp.l1 for layer in model.layers]).sum()
        optimizer.zero_grad(set_to_none=True)
        (loss + a.l1 * l1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            rate = 50 * a.batch * a.length / (time.time() - shown)
            shown = time.time()
            print(
                f"step {step} {spent / 60:.1f} min loss {loss.item():.3f} l1 {l1.item():.3f} {rate:.0f} tok/s",
                flush=True,
            )
        if step % 500 == 0:
            print(json.dumps(evaluate(model, tokenizer, valid_texts[:50])), flush=True)
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
            torch.save(saved, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
            export(model, tokenizer, a.out / "checkpoint")
    export(model, tokenizer, a.out / "checkpoint")
    report = {"shape": asdict(shape), "steps": step, "tokens_seen": step * a.batch * a.length}
    report |= {"held_out": evaluate(model, tokenizer, valid_texts[:200])}
    (a.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
