"""edgekit rerank"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.common import (
    UTF8,
    activations_option,
    context_option,
    json_option,
    print_json,
    quiet_option,
    threads_option,
    waiting,
)
from edgekit.cli.embed import lines_of, print_warning


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("query", type=UTF8)
@click.argument("documents", type=UTF8, nargs=-1, metavar="[DOCUMENT]...")
@click.option(
    "-f", "--file", "text_file", type=click.Path(path_type=Path), help="One document on each line ('-': stdin)."
)
@click.option("--top", type=click.IntRange(1), help="Print the best N only.  [default: all]")
@click.option("--raw", is_flag=True, help="Scores as the model's head gives them, without a sigmoid.")
@click.option("--ram", help="Hard memory budget of the runtime, as in 400M.  [default: all that is needed]")
@context_option("Most tokens of a pair.  [default: the model's]")
@threads_option
@activations_option
@json_option
@quiet_option
def command(
    bundle: Path,
    query: str,
    documents: tuple[str, ...],
    text_file: Path | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Order each DOCUMENT by how well it answers QUERY, with the reranker in BUNDLE.

    \b
    Examples:
      edgekit rerank reranker.edgekit "Where did the cat sit?" "The dog ran." "A cat sat on the mat."
      edgekit rerank reranker.edgekit "Where did the cat sit?" --file passages.txt --top 3 --json
    """
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options

    given = [*documents, *lines_of(text_file)]
    if not given:
        raise click.UsageError("Give documents, or a file with -f.")
    options = Options(
        ram=flags["ram"], context=flags["context"], threads=flags["threads"], activations=flags["activations"]
    )
    with waiting(f"loading {bundle}", quiet or as_json):
        model = TextModel(bundle, options)
    with model:
        found = model.rerank(query, given, flags["top"], flags["raw"], warn=None if quiet else print_warning)
    if as_json:
        table = [{"index": r.index, "score": r.score, "document": given[r.index]} for r in found]
        print_json({"results": table})
        return
    for r in found:
        click.echo(f"{r.score:.6f}  {given[r.index]}")
