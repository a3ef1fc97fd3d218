"""The bundle's tokenizer and chat templates as metadata of a GGUF file.

Two kinds can be told: byte-level BPE with one of the ways of cutting text that llama.cpp has by name, and BPE that
falls back to bytes (SentencePiece), whose merges become scores of tokens.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf

from edgekit.checkpoint import read_json
from edgekit.checkpoint.gguf_tokenizer import CUTS, SPACE
from edgekit.converters.tokenizer import around
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.generate.chat_template import DEFAULT, read_templates
from edgekit.generate.tokenizer import FILE, Tokenizer

CONFIG = "tokenizer_config.json"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
DIGIT = r"\p{N}"
# Ways of cutting, each by the name under which llama.cpp has it; a word that is a token stays whole in the second list.
NAMES = ("gpt-2", "dbrx", "qwen2", "smollm", "gpt-4o")
WHOLE_NAMES = ("llama-bpe", "tekken")
KINDS = gguf.TokenType


def write_tokenizer(keys: Any, bundle: Path, model: Json) -> None:
    """Writes vocabulary, special tokens and templates; of a bundle without a tokenizer, that there is none.

    Raises:
        ConvertError: llama.cpp has no such tokenizer.
    """
    folder = bundle / "tokenizer"
    if not (folder / FILE).is_file():
        keys.add_tokenizer_model("no_vocab")
        return
    tokenizer = Tokenizer(folder)  # refuses what is malformed
    whole = json.loads((folder / FILE).read_text(encoding="utf-8"))
    bpe = whole["model"]
    if bpe.get("type") != "BPE":
        raise ConvertError(f"gguf: tokenizers of the kind {str(bpe.get('type'))[:20]!r} are not written, only BPE")
    pieces = bool(bpe.get("byte_fallback"))
    tokens, types = _tokens(whole, model["vocab_size"], pieces)
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in bpe["merges"]]
    if pieces:
        keys.add_tokenizer_model("llama")
        keys.add_tokenizer_pre("default")
        keys.add_token_list(tokens)
        keys.add_token_scores(_scores(tokens, merges))
        keys.add_add_space_prefix(_prefixed(whole))
    else:
        keys.add_tokenizer_model("gpt2")
        keys.add_tokenizer_pre(_cut_name(whole))
        keys.add_token_list(tokens)
        keys.add_token_merges([" ".join(merge) for merge in merges])
    keys.add_token_types(types)
    _special(keys, folder, tokenizer, tokens, model)


def _tokens(whole: Json, size: int, pieces: bool) -> tuple[list[str], list[int]]:
    """Tokens by id, and their types; ids that no token has are filled up."""
    found: dict[int, tuple[str, int]] = {}
    for token, i in whole["model"]["vocab"].items():
        found[i] = (token, KINDS.BYTE if pieces and BYTE.fullmatch(token) else KINDS.NORMAL)
    unknown = whole["model"].get("unk_token")
    for added in whole.get("added_tokens", []):
        kind = KINDS.CONTROL if added.get("special") else KINDS.USER_DEFINED
        found[added["id"]] = (added["content"], KINDS.UNKNOWN if added["content"] == unknown else kind)
    if max(found, default=0) >= size:
        raise ConvertError(f"gguf: the tokenizer has token {max(found)}, and the model {size} embeddings")
    filled = [found.get(i, (f"[PAD{i}]", KINDS.UNUSED)) for i in range(size)]
    return [token for token, _ in filled], [int(kind) for _, kind in filled]


def _scores(tokens: list[str], merges: list[tuple[str, ...]]) -> list[float]:
    """The earlier a token is merged, the higher its score; tokens that no merge makes have the lowest ones."""
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(merges):
        rank.setdefault(left + right, i)
    return [-float(rank.get(token, len(merges) + i)) for i, token in enumerate(tokens)]


def _steps(part: Any, inner: str) -> list[Json]:
    """A normalizer or pre-tokenizer as a list of steps."""
    if not part:
        return []
    listed: list[Json] = part[inner] if part.get("type") == "Sequence" else [part]
    return listed


def _prefixed(whole: Json) -> bool:
    """Whether a text gets a space in front."""
    steps = _steps(whole.get("normalizer"), "normalizers") + _steps(whole.get("pre_tokenizer"), "pretokenizers")
    return any(
        (s["type"] == "Prepend" and s["prepend"] == SPACE)
        or (s["type"] == "Metaspace" and s.get("prepend_scheme", "always") != "never")
        for s in steps
    )


def _cut_name(whole: Json) -> str:
    """What llama.cpp calls the way in which a byte-level tokenizer cuts text."""
    cuts = []
    for step in _steps(whole.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Split":
            cuts.append(step["pattern"].get("Regex", ""))
        elif step["type"] == "Digits" and step.get("individual_digits"):
            cuts.append(DIGIT)
        elif step["type"] == "ByteLevel":
            cuts += [CUTS["gpt-2"][0]] if step.get("use_regex", True) else []
        else:
            cuts.append("")
    others = {s["type"] for s in _steps(whole.get("normalizer"), "normalizers")} - {"NFC"}  # llama.cpp leaves that out
    names: tuple[str, ...] = WHOLE_NAMES if whole["model"].get("ignore_merges") else NAMES
    found = next((name for name in names if CUTS[name] == tuple(cuts)), None)
    if found is None or others:
        raise ConvertError("gguf: llama.cpp has no name for the way in which this tokenizer cuts text; export 'onnx'")
    return found


def _special(keys: Any, folder: Path, tokenizer: Tokenizer, tokens: list[str], model: Json) -> None:
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    begin, end = around(tokenizer)
    if len(begin) > 1 or len(end) > 1:
        raise ConvertError(f"gguf: the tokenizer puts {begin} and {end} around a text, and llama.cpp one token each")
    bos = begin[0] if begin else model.get("bos_token_id")
    ends = [*end, *model["eos_token_ids"]]
    if bos is not None:
        keys.add_bos_token_id(bos)
    if ends:
        keys.add_eos_token_id(ends[0])
    others = [e for e in dict.fromkeys(ends) if e != ends[0]]
    if others:  # chat models end a turn with another token than a text
        keys.add_eot_token_id(others[0])
    for name, add in (("unk_token", keys.add_unk_token_id), ("pad_token", keys.add_pad_token_id)):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token in tokens:
            add(tokens.index(token))
    keys.add_add_bos_token(bool(begin))
    keys.add_add_eos_token(bool(end))
    templates = read_templates(folder, config)
    if set(templates) == {DEFAULT}:
        keys.add_chat_template(templates[DEFAULT])
    elif templates:
        keys.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])
