"""The tokenizer of a GGUF file as tokenizer.json and tokenizer_config.json, as the `tokenizers` library reads them.

Two models exist in files of our families: "gpt2" (byte-level BPE with merges) and "llama" (SentencePiece: pieces with
scores, from which merges are made as transformers makes them).
"""

from __future__ import annotations

from typing import Any

from edgekit.checkpoint.gguf_file import GgufFile
from edgekit.errors import CheckpointError, UnsupportedModelError

Table = dict[str, Any]
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type
LONGEST_PIECE = 1 << 10
SPACE = "\u2581"

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_CAPITALS, _SMALLS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALLS}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALLS}*")
_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = f"{_WORDS[0]}{_ENDINGS}?|{_WORDS[1]}{_ENDINGS}?" + r"|\p{N}{1,3}" + _SLASHES
_TEKKEN = f"{_WORDS[0]}|{_WORDS[1]}" + r"|\p{N}" + _SLASHES

# tokenizer.ggml.pre -> how text is cut before merging. Names: llama-vocab.cpp of llama.cpp.
CUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("default", "gpt-2", "mpt", "olmo", "granite-docling", "exaone4"), (_GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "lfm2", "falcon3", "smaug-bpe", "dbrx"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), (_QWEN2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), (r"\p{N}", _GPT2)),
    **dict.fromkeys(("gpt-4o", "llama4"), (_GPT4O,)),
    "tekken": (_TEKKEN,),
}
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")  # a word that is a token is not merged
BEGIN_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "tekken")


def tokenizer_of(file: GgufFile) -> dict[str, Table]:
    """tokenizer.json and tokenizer_config.json by name; empty if the file has no tokenizer.

    Raises:
        UnsupportedModelError: a kind of tokenizer that edgekit does not build.
        CheckpointError: its lists contradict each other.
    """
    model = file.metadata.get("tokenizer.ggml.model")
    if model is None or model == "no_vocab":
        return {}
    tokens = _texts(file, "tokens")
    if model == "gpt2":
        made, begins = _byte_level(file, tokens)
    elif model == "llama":
        made, begins = _pieces(file, tokens)
    else:
        raise UnsupportedModelError(
            f"{file.path}: a tokenizer of kind {str(model)[:50]!r} is not built from GGUF; 'gpt2' and 'llama' are"
        )
    kinds = file.metadata.get("tokenizer.ggml.token_type", [])
    kinds = kinds if isinstance(kinds, list) else []
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind != USER_DEFINED}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) and token
    ]  # fmt: skip
    special = {f"{name}_token": _special(file, tokens, f"{key}_token_id") for name, key in _SPECIAL.items()}
    named = {name: token for name, token in special.items() if token is not None}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **made}
    whole["post_processor"] = _around(file, tokens, begins)
    return {"tokenizer.json": whole, "tokenizer_config.json": {**named, **_templates(file)}}


_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _texts(file: GgufFile, name: str) -> list[str]:
    listed = file.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(listed, list) or not all(isinstance(x, str) for x in listed):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.{name} is no list of texts")
    if any(len(x) > LONGEST_PIECE for x in listed):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.{name} has a text of more than {LONGEST_PIECE} characters")
    return listed


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    """Ids by token; of tokens that are there twice, the first."""
    vocabulary: dict[str, int] = {}
    for i, token in enumerate(tokens):
        vocabulary.setdefault(token, i)
    return vocabulary


def _byte_level(file: GgufFile, tokens: list[str]) -> tuple[Table, bool]:
    pre = file.metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in CUTS:
        raise UnsupportedModelError(
            f"{file.path}: tokenizer.ggml.pre is {str(pre)[:50]!r}, which edgekit does not know; known: "
            f"{', '.join(CUTS)}"
        )
    vocabulary = _vocabulary(tokens)
    merges = []
    for merge in _texts(file, "merges"):
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not {left, right, left + right} <= vocabulary.keys():
            raise CheckpointError(f"{file.path}: tokenizer.ggml.merges has {merge[:50]!r}, whose tokens do not exist")
        merges.append([left, right])
    cuts = [{"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False} for cut in CUTS[pre]]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    made: Table = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, level]},
        "decoder": {**level, "use_regex": True},
        "model": _bpe(vocabulary, merges, None, ignore_merges=pre in WHOLE_WORDS),
    }
    return made, pre in BEGIN_BY_DEFAULT


def _pieces(file: GgufFile, tokens: list[str]) -> tuple[Table, bool]:
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(isinstance(s, float) for s in scores):
        raise CheckpointError(f"{file.path}: tokenizer.ggml.scores is no list with a number for each token")
    vocabulary = _vocabulary(tokens)
    unknown = _special(file, tokens, "unknown_token_id")
    prefixed = file.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefixed else []
    steps: list[Table] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefixed:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replaced]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _bpe(vocabulary, _merges(tokens, scores, vocabulary), unknown, byte_fallback=True, fuse_unk=True),
    }, True


def _merges(tokens: list[str], scores: list[float], vocabulary: dict[str, int]) -> list[list[str]]:
    """Every way to make a token of two others, those of the highest score first."""
    found = []
    for token, score in zip(tokens, scores, strict=True):
        if len(token) > 1:
            splits = [(token[:i], token[i:]) for i in range(1, len(token))]
            pairs = [(vocabulary[a], vocabulary[b], a, b) for a, b in splits if a in vocabulary and b in vocabulary]
            found += [(-score, *pair) for pair in sorted(pairs)]
    found.sort(key=lambda merge: merge[0])
    return [[a, b] for _, _, _, a, b in found]


def _bpe(vocabulary: dict[str, int], merges: list[list[str]], unknown: str | None, **flags: bool) -> Table:
    switches = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False} | flags
    empty = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {"type": "BPE", **empty, "unk_token": unknown, **switches, "vocab": vocabulary, "merges": merges}


def _special(file: GgufFile, tokens: list[str], key: str) -> str | None:
    number = file.metadata.get(f"tokenizer.ggml.{key}")
    if type(number) is not int or not 0 <= number < len(tokens):
        return None
    return tokens[number]


def _around(file: GgufFile, tokens: list[str], begins: bool) -> Table | None:
    """What is put around a text: the tokens of its beginning and end, as the file says."""
    listed = {}
    for name, default in (("bos", begins), ("eos", False)):
        wanted = file.metadata.get(f"tokenizer.ggml.add_{name}_token", default) is True
        token = _special(file, tokens, f"{name}_token_id")
        if wanted and token is not None:
            listed[name] = token
    if not listed:
        return None
    vocabulary = {token: tokens.index(token) for token in listed.values()}

    def around(sequence: str, number: int) -> list[Table]:
        first = [{"SpecialToken": {"id": listed["bos"], "type_id": number}}] if "bos" in listed else []
        last = [{"SpecialToken": {"id": listed["eos"], "type_id": number}}] if "eos" in listed else []
        return [*first, {"Sequence": {"id": sequence, "type_id": number}}, *last]

    special = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in vocabulary.items()}
    pair = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special}


def _templates(file: GgufFile) -> Table:
    """The chat templates: one, or several with names."""
    one, prefix = file.metadata.get("tokenizer.chat_template"), "tokenizer.chat_template."
    named = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix) and isinstance(v, str)}
    if not isinstance(one, str):
        return {}
    if not named:
        return {"chat_template": one}
    both = {"default": one, **named}
    return {"chat_template": [{"name": name, "template": text} for name, text in both.items()]}
