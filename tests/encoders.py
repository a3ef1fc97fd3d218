"""Tiny random encoders of every family, made by transformers, which is also their oracle; and folders around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MODERN: dict[str, Any] = {
    **SIZES,
    "num_hidden_layers": 4,
    "local_attention": 10,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}

MAKERS: dict[str, Callable[..., Any]] = {
    "bert": lambda **k: tf.BertConfig(**SIZES, **k),
    "bert_odd_sizes": lambda **k: tf.BertConfig(**{**SIZES, "hidden_size": 60, "intermediate_size": 77}, **k),
    "bert_tanh_gelu": lambda **k: tf.BertConfig(**SIZES, hidden_act="gelu_new", type_vocab_size=3, **k),
    "bert_wide_heads": lambda **k: tf.BertConfig(**{**SIZES, "num_attention_heads": 2}, **k),
    "roberta": lambda **k: tf.RobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1, **k),
    "xlm-roberta": lambda **k: tf.XLMRobertaConfig(**SIZES, type_vocab_size=1, pad_token_id=1, **k),
    "distilbert": lambda **k: tf.DistilBertConfig(
        vocab_size=99, dim=64, hidden_dim=96, n_layers=3, n_heads=4, max_position_embeddings=64, **k
    ),
    "modernbert": lambda **k: tf.ModernBertConfig(**MODERN, **k),
    "modernbert_biased": lambda **k: tf.ModernBertConfig(
        **MODERN, attention_bias=True, mlp_bias=True, classifier_bias=True, classifier_pooling="mean", **k
    ),
    "modernbert_wide_heads": lambda **k: tf.ModernBertConfig(**{**MODERN, "num_attention_heads": 2}, **k),
    "nomic_bert": lambda **k: tf.NomicBertConfig(**SIZES, **k),
}
SCORERS = [name for name in MAKERS if name != "nomic_bert"]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat ran on mat fast slow and".split()  # noqa: SIM905


def make(name: str, folder: Path, scores: bool = False, **config: Any) -> Any:
    """Saves a random checkpoint to a folder and returns the model, in f32; `scores`: with a head of one label."""
    torch.manual_seed(0)
    made = MAKERS[name](**config, **({"num_labels": 1} if scores else {}))
    made._attn_implementation = "eager"
    kind = tf.AutoModelForSequenceClassification if scores else tf.AutoModel
    model = kind.from_config(made, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases must not stay at one and zero
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    return model


def model_type(name: str) -> str:
    """The model_type of a tiny checkpoint."""
    return str(MAKERS[name]().model_type)


def add_tokenizer(folder: Path, size: int = 99, limit: int | None = None) -> None:
    """A word-level tokenizer with [CLS] and [SEP] around texts and pairs, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = WORDS + [f"w{i}" for i in range(size - len(WORDS))]
    native = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    native.normalizer = normalizers.Lowercase()
    native.pre_tokenizer = pre_tokenizers.Whitespace()
    native.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    native.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"model_max_length": limit} if limit is not None else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def add_modules(
    folder: Path,
    mode: str | None = "mean",
    normalize: bool = True,
    length: int | None = 32,
    prompts: dict[str, str] | None = None,
    default: str | None = None,
) -> None:
    """The files that sentence-transformers writes around a model."""
    base = "sentence_transformers.models."
    modules = [("", "Transformer")]
    if mode is not None:
        modules.append(("1_Pooling", "Pooling"))
        flags = {f"pooling_mode_{m}": m == mode for m in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
        if mode in ("mean", "max", "cls"):
            flags = {key: key.startswith(f"pooling_mode_{mode}_") for key in flags}
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **flags}))
    if normalize:
        modules.append(("2_Normalize", "Normalize"))
    listed = [{"idx": i, "name": str(i), "path": p, "type": base + t} for i, (p, t) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    if length is not None:
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": length, "do_lower_case": False})
        )
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": prompts, "default_prompt_name": default})
        )
