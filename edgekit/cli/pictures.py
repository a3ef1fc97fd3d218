"""Pictures in the commands that generate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import waiting

if TYPE_CHECKING:
    from edgekit.generate.tokenizer import Tokenizer

image_option = click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Picture that the prompt is about, for models that see; may be repeated.",
)


def see(
    bundle: Path, tokenizer: Tokenizer, text: str, system: str | None, chat: bool, flags: dict[str, Any]
) -> list[int]:
    """Encodes the pictures of --image and returns the prompt's tokens; the rows that stand for some of them take the
    files' place in `flags`, and what encoding took comes there too."""
    from edgekit.bundle import manifest
    from edgekit.pictures.prompt import seeing_prompt
    from edgekit.pictures.sight import Sight
    from edgekit.runtime.values import Options

    if flags["backend"] != "native":
        raise click.UsageError("Pictures need the native backend.")
    if flags["prompt_cache"] is not None:
        raise click.UsageError("A prompt cache keeps tokens and no pictures; leave out --prompt-cache or --image.")
    sight = Sight(bundle, manifest.read(bundle).data["model"])
    kept = ("threads", "io", "kernels", "activations")
    options = Options(engine=flags["io_engine"], **{name: flags[name] for name in kept})
    if chat:
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
        parts = [*({"type": "image"} for _ in flags["images"]), {"type": "text", "text": text}]
        text = tokenizer.chat([*messages, {"role": "user", "content": parts}])
    with waiting("looking at the pictures", flags["quiet"] or flags["as_json"]):
        seen = sight.look(flags["images"], options, flags["ram"])
    prompt = seeing_prompt(text, seen, tokenizer, sight.told, special=not chat)
    flags["images"], flags["looked"] = prompt.pictures, sight.last
    flags["least_batch"] = sight.least_batch
    return list(prompt.ids)


def with_looked(figures: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A run's figures with those of its pictures: the encoder held memory before the decoder did, not beside it."""
    looked = flags.get("looked")
    if looked is None:
        return figures
    return figures | {
        "peak_memory_bytes": max(figures["peak_memory_bytes"], looked.peak_bytes),
        "pictures": looked.pictures,
        "picture_tiles": looked.tiles,
        "picture_seconds": round(looked.seconds, 3),
    }
