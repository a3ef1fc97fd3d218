"""edgekit inspect"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.artifacts import artifact_line, list_artifacts
from edgekit.cli.common import human, json_option, print_json


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path")
@json_option
def command(path: str, as_json: bool) -> None:
    """Show what is in PATH, a bundle with its artifacts or a checkpoint.

    \b
    Example:
      edgekit inspect model.edgekit
    """
    from edgekit.inspect import inspect

    table = inspect(path)
    if table["kind"] == "bundle":
        table["artifacts"] = list_artifacts(Path(path), table["parameters"])
    if as_json:
        print_json(table)
        return
    for name, value in _rows(table):
        click.echo(f"{name:<16} {value}")
    for line in _blocks(table["blocks"]):
        click.echo(line)
    for artifact in table.get("artifacts", []):
        click.echo(f"{'artifact':<16} {artifact_line(artifact)}")


def _rows(t: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (t["kind"], t["path"]),
        ("model type", t["model_type"]),
        ("weights", f"{t['parameters'] / 1e6:.2f}M{' (embedding tied)' if t['tied'] else ''}"),
        *_vectors(t),
        *_sight(t),
        ("sizes", f"hidden {t['hidden_size']}, vocabulary {t['vocab_size']}, context {t['max_context']}"),
    ]
    if t["kind"] == "checkpoint":
        dtypes = ", ".join(f"{n} {d}" for d, n in t["dtypes"].items())
        return [
            *rows,
            ("tensors", f"{t['tensors']} ({dtypes})"),
            ("as a bundle", f"{human(t['default_recipe_bytes'])} with {t['default_recipe']}"),
            *(("warning", line) for line in t["warnings"]),
        ]
    codecs = ", ".join(f"{name} ({c['weights'] / 1e6:.2f}M)" for name, c in t["codecs"].items())
    return [
        *rows,
        ("recipe", f"{t['provenance']['recipe']} of {t['provenance']['source']}"),
        ("codecs", codecs),
        ("size", f"{human(t['bytes'])}, {t['bits_per_weight']} bits per weight"),
        ("on flash", f"{human(t['resident_bytes'])} resident file, {human(t['flash_bytes'])} FFN, {t['units']} units"),
        (
            "memory",
            f"at least {human(t['floor_bytes'])}, all resident {human(t['full_bytes'])}, "
            f"of which keys and values take {human(t['kv_bytes'])} (context {t['context']})",
        ),
    ]


def _sight(t: dict[str, Any]) -> list[tuple[str, str]]:
    """What the model sees pictures with."""
    if "sees" not in t:
        return []
    s = t["sees"]
    memory = f"{human(s['bytes'])}, in memory at least {human(s['floor_bytes'])}, all {human(s['full_bytes'])}"
    return [("sees", f"pictures ({s['kind']}), {s['rows']} tokens for a tile; its encoder has {memory}")]


def _vectors(t: dict[str, Any]) -> list[tuple[str, str]]:
    """What the model makes of a text beside more text."""
    if "pooling" not in t:
        return []
    p, scores = t["pooling"], t.get("output") == "score"
    made = "scores of pairs" if scores else f"vectors{', normalized' if p['normalize'] else ''}"
    prompts = [name for name, _ in p.get("prompts", [])]
    listed = f", prompts {', '.join(prompts)}" if prompts else ""
    return [("gives", f"{made}, pooling {p['mode']}, texts of at most {p['max_length']} tokens{listed}")]


def _blocks(blocks: list[dict[str, Any]]) -> list[str]:
    """One line for each run of equal layers; a layer begins with what looks at other tokens."""
    shown: list[tuple[str, int]] = []
    layers: list[list[str]] = []
    for b in blocks:
        if not layers or b["kind"] not in ("ffn", "experts", "layer_input"):
            layers.append([])
        layers[-1].append(_block(b))
    for text in map(" + ".join, layers):
        if shown and shown[-1][0] == text:
            shown[-1] = (text, shown[-1][1] + 1)
        else:
            shown.append((text, 1))
    return [f"{'blocks' if i == 0 else '':<16} {n} x {text}" for i, (text, n) in enumerate(shown)]


def _block(b: dict[str, Any]) -> str:
    if b["kind"] == "attention":
        window = f", window {b['window']}" if b["window"] else ""
        window += ", keys and values shared" if "source" in b else ""
        window += "" if b.get("causal", True) else ", to both sides"
        return f"attention {b['heads']}/{b['kv_heads']} heads of {b['head_dim']}{window}"
    if b["kind"] == "linear_attention":
        heads = f"{b['key_heads']}/{b['value_heads']} heads of {b['key_dim']}/{b['value_dim']}"
        return f"linear attention {heads}, convolution of {b['taps']} tokens"
    if b["kind"] == "layer_input":
        return "embedding of the layer"
    if b["kind"] == "convolution":
        return f"convolution of {b['taps']} tokens"
    gate = "gated " if b["gated"] else ""
    if b["kind"] == "experts":
        return f"{gate}{b['activation']} experts {b['top_k']} of {len(b['matrices'])} x {b['size']}"
    return f"{gate}{b['activation']} ffn {b['size']}"
