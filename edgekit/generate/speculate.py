"""Speculative decoding with a draft model: a smaller bundle of the same vocabulary drafts, the large one checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit.bundle import manifest
from edgekit.errors import BudgetError, RuntimeFailure
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.sizes import parse_bytes

DRAFT_TOKENS = 8


def open_with_draft(path: str | Path, draft: str | Path, options: Options) -> TextModel:
    """Opens a bundle for which a draft model drafts, both within `options.ram`.

    The draft model stays in memory whole; the other gets what that leaves.

    Args:
        path: the bundle that generates.
        draft: a smaller bundle with the same tokenizer.
        options: of the first; `draft_tokens` of them is the most at once, DRAFT_TOKENS if 0.

    Raises:
        RuntimeFailure: the two have different tokenizers.
        BudgetError: the budget does not hold the draft model and the least that the other needs.
    """
    path, draft = Path(path), Path(draft)
    files = [p / "tokenizer" / "tokenizer.json" for p in (path, draft)]
    if all(f.is_file() for f in files) and files[0].read_bytes() != files[1].read_bytes():
        raise RuntimeFailure(f"{draft}: its tokenizer is not that of {path}; a draft model must have the same")
    options = replace(options, draft_tokens=options.draft_tokens or DRAFT_TOKENS)
    context = options.context or plan_bundle(path, replace(options, ram=None)).context
    context = min(context, manifest.read(draft).data["model"]["max_context"])  # beyond it, there are no drafts
    small = Options(
        context=context, threads=options.threads, io=options.io, cache_type=options.cache_type, select="all"
    )
    needed, ram = plan_bundle(draft, small).budget_bytes, parse_bytes(options.ram)
    if ram and ram <= needed:
        raise BudgetError(f"a budget of {ram} bytes does not hold the draft model {draft}, which needs {needed}")
    opened = TextModel(path, replace(options, ram=ram - needed if ram else None))
    assert isinstance(opened.session, Session)
    try:
        opened.session.draft_with(Session(draft, replace(small, ram=needed)))
    except BaseException:
        opened.close()
        raise
    return opened
