"""edgekit verify"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
@quiet_option
def command(bundle: Path, as_json: bool, quiet: bool) -> None:
    """Check every byte of BUNDLE: manifest, SHA-256 of each file, checksum of each unit.

    \b
    Example:
      edgekit verify model.edgekit && echo whole
    """
    from edgekit.verify import verify

    with progress_bar("verifying", quiet or as_json) as progress:
        found = verify(bundle, progress)
    if as_json:
        print_json({"path": str(bundle), "ok": True, **asdict(found)})
    elif not quiet:
        click.echo(f"{bundle}: whole ({found.files} files, {human(found.bytes)}, {found.units} units)")
