"""edgekit adapter"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.common import human, json_option, print_json, quiet_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--overwrite", is_flag=True, help="Replace an adapter's file that exists.")
@json_option
@quiet_option
def command(bundle: Path, folder: Path, out: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Make the LoRA adapter that PEFT saved to FOLDER one file for BUNDLE, to run with --lora.

    The file is what the runtime reads, also in C and Swift, and belongs to that bundle. `run --lora FOLDER` makes it
    for the time being. `convert --lora` merges an adapter into the weights instead.

    \b
    Example:
      edgekit adapter tiny.edgekit ./adapter -o tiny.lora
      edgekit run tiny.edgekit -p "Once" --lora tiny.lora
    """
    from edgekit.bundle.adapter import write_adapter

    made = write_adapter(bundle, folder, out, overwrite=overwrite)
    if as_json:
        print_json({"path": str(out), **asdict(made)})
    elif not quiet:
        click.echo(f"{out}: {made.parts} matrices changed, {human(made.bytes)}")
