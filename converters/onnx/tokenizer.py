"""What onnxruntime-genai's own tokenizer needs, so that its ids are those of `edgekit run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgekit.checkpoint import read_json
from edgekit.converters.tokenizer import around
from edgekit.converters.weights import Json
from edgekit.generate.chat_template import DEFAULT, read_templates
from edgekit.generate.tokenizer import FILE, Tokenizer

CONFIG = "tokenizer_config.json"
OPTION = "add_special_tokens"


def write_tokenizer_config(folder: Path) -> Json:
    """Rewrites tokenizer_config.json for the tokenizer of onnxruntime-genai.

    That tokenizer guesses from the class's name whether BOS and EOS belong around a text, unless the config says
    so; there, the post-processor of tokenizer.json decides. It reads no lists of chat templates either. What it cannot
    do: an EOS after a text, if the tokenizer falls back to bytes (no model that generates wants one there).

    Args:
        folder: an artifact with the bundle's tokenizer in it.

    Returns:
        The options that `og.Tokenizer.update_options` needs: without them it leaves BOS and EOS out, whatever the
        folder says; where more belongs there than it can put, a warning says so. Empty without a tokenizer.
    """
    if not (folder / FILE).is_file():
        return {}
    tokenizer = Tokenizer(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    begin, end = around(tokenizer)
    if len(begin) > 1 or len(end) > 1:
        print(
            f"edgekit: warning: the tokenizer puts {begin} and {end} around a text, and onnxruntime-genai's own knows "
            "one BOS and one EOS only; give it token ids",
            file=sys.stderr,
        )
        return {OPTION: "false"}
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    for name, ids in (("bos", begin), ("eos", end)):
        config[f"add_{name}_token"] = bool(ids)
        if ids:
            config[f"{name}_token"] = tokenizer.token(ids[0])
    if not isinstance(config.get("chat_template", ""), str):
        config["chat_template"] = read_templates(folder, config).get(DEFAULT, "")
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {OPTION: "true"}
