"""Makes edgekit/arch/defaults.json from the config classes of the installed transformers.

    python -m tests.config_defaults [NEW_MODEL_TYPE ...]

A new family needs its line before it can be imported. The table is committed;
 tests/test_config_defaults.py compares it with the installed transformers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "edgekit" / "arch" / "defaults.json"


def family(model_type: str) -> dict[str, Any]:
    """Defaults of one config class under the names that config.json uses, and its other names for them."""
    import transformers as tf
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    aliases = dict(kind.attribute_map)
    common = {f.name for f in fields(tf.PreTrainedConfig)}
    values = {aliases.get(f.name, f.name): f.default for f in fields(kind) if f.name not in common}
    made = kind()
    # What the class computes when it is made and never declares: legacy names that its own code reads.
    rope = values.pop("rope_parameters", "none") is None and made.rope_parameters
    if rope and "full_attention" in rope and model_type == "olmo3":
        values |= {"rope_theta": rope["full_attention"]["rope_theta"]}
    elif rope and model_type == "gpt_oss":
        values |= {"rope_theta": rope["rope_theta"]}
    elif rope and "full_attention" in rope and model_type != "gemma4_text":
        values["rope_theta"] = rope["full_attention"]["rope_theta"]
        values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    elif rope and model_type == "gpt_neox":
        values["rotary_emb_base"], values["rotary_pct"] = rope["rope_theta"], rope["partial_rotary_factor"]
    elif rope and model_type != "gemma4_text":
        values |= {k: v for k, v in rope.items() if k != "rope_type"}
    if rope:
        values |= {"rope_parameters": rope if model_type in ("gpt_oss", "gemma4_text") else None, "rope_scaling": None}
    if hasattr(made, "_sliding_window_pattern"):
        values["sliding_window_pattern"] = made._sliding_window_pattern
    if "attention_types" in values:
        values["attention_types"] = made.attention_types
    if "time_step_limit" in values:
        values["time_step_limit"] = None  # it holds an infinity, which JSON has not
    return {"aliases": aliases, "defaults": dict(sorted(values.items()))}


def text(model_types: list[str]) -> str:
    """The table as it is committed: one line per model type."""
    lines = ",\n".join(f"{json.dumps(t)}: {json.dumps(family(t), allow_nan=False)}" for t in sorted(model_types))
    return "{\n" + lines + "\n}\n"


if __name__ == "__main__":
    TABLE.write_text(text(sorted({*json.loads(TABLE.read_text()), *sys.argv[1:]})))
