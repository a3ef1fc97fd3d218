"""Tiny random models that see, made by transformers, which is also their oracle; and pictures for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image

from tests import tiny

VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SPLIT: dict[str, Any] = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
ODD: dict[str, Any] = {"size": {"longest_edge": 72}, "max_image_size": {"longest_edge": 24}}
LFM2_VL: dict[str, Any] = {
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "encoder_patch_size": 8,
    "tile_size": 32,
    "min_image_tokens": 2,
    "max_image_tokens": 9,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<start_of_image>",
    "<end_of_image>",
    "<|image_start|>",
    "<|image_end|>",
    "<|img_thumbnail|>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 6) for c in range(1, 6)),
    *(f"<|img_row_{r}_col_{c}|>" for r in range(1, 6) for c in range(1, 6)),
]
TEMPLATE = (
    "<s>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def _idefics3(kind: Any, **vision: Any) -> Any:
    return kind(
        text_config=tf.LlamaConfig(**{**tiny.GQA, "max_position_embeddings": 512}).to_dict(),
        vision_config={**VISION, **vision},
        scale_factor=2,
        image_token_id=SPECIAL.index("<image>"),
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def _gemma3() -> Any:
    text = tiny.MAKERS["gemma3"]().to_dict() | {"sliding_window": 3, "max_position_embeddings": 512}
    return tf.Gemma3Config(
        text_config=text,
        vision_config={**VISION, "patch_size": 4},
        mm_tokens_per_image=16,
        image_token_index=SPECIAL.index("<image>"),
        boi_token_index=SPECIAL.index("<start_of_image>"),
        eoi_token_index=SPECIAL.index("<end_of_image>"),
        eos_token_id=[2, 6],
    )


def _lfm2_vl() -> Any:
    return tf.Lfm2VlConfig(
        text_config=tiny.MAKERS["lfm2"]().to_dict() | {"max_position_embeddings": 512},
        vision_config={k: v for k, v in VISION.items() if k != "image_size"} | {"num_patches": 16},
        projector_hidden_size=56,
        image_token_id=SPECIAL.index("<image>"),
    )


MAKERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "idefics3": (lambda: _idefics3(tf.Idefics3Config), SPLIT),
    "idefics3_odd_sizes": (lambda: _idefics3(tf.Idefics3Config, hidden_size=36, patch_size=4, image_size=24), ODD),
    "gemma3": (lambda: _gemma3(), {"size": {"height": 32, "width": 32}}),
    "lfm2_vl": (lambda: _lfm2_vl(), LFM2_VL),
    "smolvlm": (lambda: _idefics3(tf.SmolVLMConfig), {**SPLIT, "do_image_splitting": False}),
}


def make(name: str, folder: Path) -> Any:
    """Saves a random checkpoint with a tokenizer and its processor's settings, and returns the model, in f32."""
    torch.manual_seed(0)
    config, settings = MAKERS[name]
    made = config()
    made._attn_implementation = "eager"
    model = tf.AutoModelForImageTextToText.from_config(made, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases must not stay at one and zero
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    if name == "lfm2_vl":  # its processor needs torchvision
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        processor(name, settings).save_pretrained(folder)
    add_tokenizer(folder, template_of(name))
    return model


def template_of(name: str) -> str:
    """The chat template of a model."""
    return TEMPLATE.replace("<image>", "<start_of_image>") if name == "gemma3" else TEMPLATE


def processor(name: str, settings: dict[str, Any]) -> Any:
    """The processor of a kind of pictures, as transformers runs it with Pillow."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    kinds = {"smolvlm": SmolVLMImageProcessorPil, "gemma3": Gemma3ImageProcessorPil}
    return kinds.get(name, Idefics3ImageProcessorPil)(**settings)


def add_tokenizer(folder: Path, template: str, size: int = 199) -> None:
    """A byte-level tokenizer whose special tokens are those of Idefics3, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: size - len(SPECIAL)]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    native = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    native.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    native.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "bos_token": "<s>"})
    )


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with large and small things in it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-30, 31, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, dtype=np.int64) + noise, 0, 255).astype(np.uint8))


def inputs_of(name: str, checkpoint: Path, messages: list[dict[str, Any]], photos: list[Path]) -> dict[str, Any]:
    """What transformers' own processor makes of messages that name pictures."""
    if name == "lfm2_vl":
        return _lfm2_vl_inputs(checkpoint, messages, photos)
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    template = template_of(name)
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"),
        chat_template=template,
        bos_token="<s>",
        pad_token="<unk>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    vision = json.loads((checkpoint / "config.json").read_text())["vision_config"]
    rows = (vision["image_size"] // vision["patch_size"] // 2) ** 2
    images = processor(name, settings)
    if name == "gemma3":
        whole = Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=rows)
    else:
        whole = Idefics3Processor(images, tokenizer, image_seq_len=rows, chat_template=template)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    opened = [Image.open(photo).convert("RGB") for photo in photos]
    return dict(whole(text=text, images=[opened], add_special_tokens=False, return_tensors="pt"))


def _lfm2_vl_inputs(checkpoint: Path, messages: list[dict[str, Any]], photos: list[Path]) -> dict[str, Any]:
    """By our own tiles, as the processor needs torchvision; and by the processor's own method for the text."""
    from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

    from edgekit.pictures.preparing import cut_of, patches_of, tiles_of

    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"), chat_template=TEMPLATE)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    words = SimpleNamespace(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    values, masks, shapes = [], [], []
    pieces = text.split("<image>")
    text = pieces[0]
    for photo, piece in zip(photos, pieces[1:], strict=True):
        picture = Image.open(photo).convert("RGB")
        cut = cut_of(picture.size, "lfm2_vl", LFM2_VL)
        rows = [width // 16 * (height // 16) for width, height in cut.tiles]
        build = Lfm2VlProcessor._build_image_tokens
        text += build(words, cut.rows or 1, cut.columns or 1, rows[0], rows[-1], True, True) + piece
        for tile in tiles_of(picture, "lfm2_vl", LFM2_VL):
            patches = torch.from_numpy(patches_of(tile, 8, 1, True))
            values.append(torch.nn.functional.pad(patches, (0, 0, 0, 36 - len(patches))))
            masks.append((torch.arange(36) < len(patches)).int())
            shapes.append(torch.tensor([tile.shape[1] // 8, tile.shape[2] // 8]))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.stack(values),
        "pixel_attention_mask": torch.stack(masks),
        "spatial_shapes": torch.stack(shapes),
    }
