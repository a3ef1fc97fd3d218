"""Which exports take which family, as the tests find them: the table in docs/compatibility.md is made from this.

python -m tests.families
"""

from __future__ import annotations

from pathlib import Path

from edgekit.arch import known_model_types

KINDS = ("native", "onnx", "onnx-exact", "onnx-flash", "mlx", "mlx-exact", "coreml", "coreml-flash", "coreai", "gguf")
APPLE = {"coreml", "coreml-flash", "coreai"}
EVERYTHING = set(KINDS) - {"native"}
# What an export has no code for: refused by name.
REFUSED: dict[str, set[str]] = {
    "gpt_neo": {"mlx", "gguf"},
    "gpt_neox": {"gguf"},
    "openelm": {"mlx", "gguf"},
    "opt": {"mlx", "gguf"},
    "olmo3": {"gguf"},
    "granitemoe": {"mlx"},
    "granitemoehybrid": {"mlx", "gguf"},
    "gpt_oss": {"mlx"},
    "bitnet": {"mlx", "gguf"},
    "lfm2": {"mlx", *APPLE},
    "lfm2_moe": {"mlx", *APPLE},
    "gemma4_text": EVERYTHING,
    "qwen3_next": APPLE,
    "qwen3_5_text": APPLE,
    "qwen3_5_moe_text": APPLE,
}
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->\n"
PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def table() -> str:
    """The table as it stands in the page."""
    lines = [f"| `model_type` | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for model_type in known_model_types():
        cells = ("" if kind in REFUSED.get(model_type, set()) else "x" for kind in KINDS)
        lines.append(f"| {model_type} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table of now."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:begin] + table() + text[end:]


def model_type(name: str) -> str:
    """The model_type of a tiny checkpoint."""
    if name == "openelm":
        return name
    from tests import tiny

    return str(tiny.MAKERS[name]().model_type)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
