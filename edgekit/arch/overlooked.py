"""What a description leaves out: config keys and tensors that a checkpoint has and nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from edgekit.arch.build import REQUIRED_VALUES, find_family
from edgekit.arch.config import Config, decoder_config, shown
from edgekit.arch.families import VISION as SEEING
from edgekit.arch.family import Family
from edgekit.arch.spec import Matrix, Model, Vector, Vision
from edgekit.arch.tensors import Shapes, head_tensor

# Keys of any family that change nothing edgekit computes: training, bookkeeping, and how transformers runs a model.
HARMLESS = frozenset(
    [
        "model_type",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "use_cache",
        "cache_implementation",
        "initializer_range",
        "init_std",
        "pretraining_tp",
        "gradient_checkpointing",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "use_flash_attn",
        "use_return_dict",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "aux_loss_alpha",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "unk_token_id",
        "mask_token_id",
        "decoder_start_token_id",
        "attention_dropout",
        "hidden_dropout",
        "hidden_dropout_prob",
        "classifier_dropout",
        "activation_dropout",
        "resid_dropout",
        "embed_dropout",
        "dropout",
        "layerdrop",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "residual_dropout",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "chunk_size_feed_forward",
        "is_decoder",
        "n_ctx",
        "reorder_and_upcast_attn",
        "prefix",
        "unsloth_version",
        "unsloth_fixed",
        "language",
        "license",
        "max_length",
        "min_length",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "num_beams",
        "repetition_penalty",
        "no_repeat_ngram_size",
    ]
)
VISION = re.compile(
    r"(^|\.)(vision_tower|vision_model|visual|audio_tower|multi_modal_projector|embed_vision|embed_audio|connector)\."
)
SUMMARY = re.compile(r"\.head\.")  # which makes one vector of a picture, and no decoder reads that
DRAFTING = re.compile(r"(^|\.)mtp\.")  # a head that predicts the token after the next
# Buffers that older versions of transformers saved; each is computed from the config.
BUFFERS = re.compile(r"(rotary_emb\.(inv_freq|cos_cached|sin_cached)|\.(attn|attention)\.(masked_)?bias|position_ids)$")
# What encoders are pre-trained with, or pool with where no score is made of it.
TRAINING = re.compile(r"(^|\.)pooler\.dense\.|^(cls|lm_head|decoder|head|vocab_(transform|layer_norm|projector))\.")
FIRST = 5  # names that a warning lists


def warnings(config: Mapping[str, Any], shapes: Shapes, model: Model, vision: Vision | None = None) -> tuple[str, ...]:
    """One line for config keys that were not read, one for tensors, one for a part that sees, one for a part that
    drafts; those that apply.

    Args:
        config: config.json.
        shapes: name -> shape of every tensor in the checkpoint.
        model: what `describe` made of them.
        vision: what is used of the part that sees.
    """
    family = find_family(decoder_config(config).get("model_type"))
    lines = (
        _unread_keys(config, family),
        _unused_tensors(shapes, model, family),
        _vision_tensors(config, shapes, vision),
        _drafting_tensors(shapes),
    )
    return tuple(line for line in lines if line)


def _unread_keys(config: Mapping[str, Any], family: Family) -> str:
    known = family.reads | family.harmless | HARMLESS | family.required_values.keys() | REQUIRED_VALUES.keys()
    found = Config(decoder_config(config), family)
    odd = sorted(key for key in found.raw.keys() - known - found.known if not _is_default(found.raw[key], key, found))
    if not odd:
        return ""
    listed = ", ".join(f"{shown(key)[1:-1]} = {shown(found.raw[key])}" for key in odd[:FIRST])
    return (
        f"config.json: edgekit does not use {len(odd)} key{'s' if len(odd) > 1 else ''} that may change what the model "
        f"computes: {listed}{', ...' if len(odd) > FIRST else ''}"
    )


def _is_default(value: Any, key: str, config: Config) -> bool:
    if key in config.family.defaults:
        return bool(value == config.family.defaults[key])
    return value in (None, False, "", [], {})  # a key that transformers does not know, and it is off


def _unused_tensors(shapes: Shapes, model: Model, family: Family) -> str:
    used = set(_tensors(model))
    if model.head is model.embedding:
        used.add(head_tensor(family, shapes))
    left = [n for n in shapes if n not in used and not any(r.search(n) for r in (BUFFERS, VISION, DRAFTING))]
    if family.encoder is not None:
        left = [n for n in left if not TRAINING.search(n)]
    if not left:
        return ""
    listed = ", ".join(shown(name)[1:-1] for name in sorted(left)[:FIRST])
    count = f"{len(left)} tensors of the checkpoint are" if len(left) > 1 else "1 tensor of the checkpoint is"
    return f"{count} not used: {listed}{', ...' if len(left) > FIRST else ''}"


def _vision_tensors(config: Mapping[str, Any], shapes: Shapes, vision: Vision | None) -> str:
    names = [name for name in shapes if VISION.search(name)]
    if vision is None:
        known = any(config.get("model_type") in family.model_types for family in SEEING)
        why = "--text-only, or no preprocessor_config.json" if known else "edgekit converts the text decoder"
        return f"the {len(names)} tensors of the vision part are left out: {why}" if names else ""
    used = set(_tensors(vision.encoder))
    left = sorted(name for name in names if name not in used and not SUMMARY.search(name))
    listed = ", ".join(shown(name)[1:-1] for name in left[:FIRST])
    return f"{len(left)} tensors of the vision part are not used: {listed}" if left else ""


def _drafting_tensors(shapes: Shapes) -> str:
    count = sum(1 for name in shapes if DRAFTING.search(name))
    return (
        f"the {count} tensors of the multi-token prediction head are left out: they draft and change no text; edgekit "
        "drafts without them (--draft)"
        if count
        else ""
    )


def _tensors(value: Any) -> Iterator[str]:
    """Names of the checkpoint's tensors that a description refers to."""
    if isinstance(value, Matrix | Vector) and value.tensor is not None:
        yield value.tensor
    if isinstance(value, tuple):
        for inner in value:
            yield from _tensors(inner)
    elif is_dataclass(value) and not isinstance(value, Vector):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
