"""What a generation cost: values for a report, and lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import human

if TYPE_CHECKING:
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Stats


def runtime_figures(model: TextModel) -> dict[str, Any]:
    """Speed, memory and reads of what an open model generated; with a draft model, memory of both."""
    from edgekit.runtime.model import process_peak_bytes

    s, plan, session = model.stats, model.plan, model.session
    draft = getattr(session, "draft", None)
    return {
        "prompt_tokens_per_second": _rate(s.prompt_tokens, s.prompt_seconds),
        "tokens_per_second": _rate(s.generated_tokens, s.generation_seconds),
        "peak_memory_bytes": s.peak_memory_bytes + (draft.stats.peak_memory_bytes if draft else 0),
        "process_peak_memory_bytes": process_peak_bytes(),
        "budget_bytes": plan.budget_bytes + (draft.plan.budget_bytes if draft else 0),
        "floor_bytes": plan.floor_bytes,
        "resident_bytes": plan.resident_bytes,
        "weight_bytes": plan.weight_bytes,
        "kv_bytes": plan.kv_bytes,
        "bytes_read": s.bytes_read,
        "bytes_read_per_token": s.generation_bytes_read // s.generated_tokens if s.generated_tokens else 0,
        "io_wait_seconds": round(s.io_wait_seconds, 3),
        "io": "direct" if s.io_direct else "buffered",
        "io_engine": "uring" if s.io_uring else "threads",
        "select": plan.select,
        "window_bytes": plan.window_bytes,
        **selection_report(s),
        "drafted_tokens": s.drafted_tokens,
        "accepted_tokens": s.accepted_tokens,
        "kernels": session.kernels,
        "threads": session.threads,
    }


def selection_report(s: Stats) -> dict[str, Any]:
    """What selecting neurons did, per token of the generation."""
    tokens = max(1, s.generated_tokens)
    units = s.window_hits + s.window_misses
    return {
        "selected_share": round(s.selected / s.neurons, 4) if s.neurons else 1.0,
        "window_hit_rate": round(s.window_hits / units, 4) if units else 0.0,
        "reads_per_token": round(s.window_misses / tokens, 1),
        "select_ms": round(1e3 * s.select_seconds / tokens, 3),
        "read_ms": round(1e3 * s.read_seconds / tokens, 3),
        "ffn_ms": round(1e3 * s.ffn_seconds / tokens, 3),
        "manage_ms": round(1e3 * s.manage_seconds / tokens, 3),
    }


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 2) if seconds > 0 else 0.0


def summarize(r: dict[str, Any]) -> None:
    """A report in lines, on stderr."""
    lines = (
        f"prompt      {r['prompt_tokens']} tokens, {r['prompt_tokens_per_second']} tok/s",
        f"generation  {len(r['token_ids'])} tokens, {r['tokens_per_second']} tok/s ({r['finish_reason']})"
        + (f", {r['expected_tokens_per_second']} expected" if r["expected_tokens_per_second"] else ""),
        f"memory      {human(r['peak_memory_bytes'])} runtime, {human(r['process_peak_memory_bytes'])} whole process; "
        f"{human(r['resident_bytes'])} of {human(r['weight_bytes'])} weights resident"
        if r["weight_bytes"]
        else f"memory      {human(r['process_peak_memory_bytes'])} whole process ({r['backend']})",
        f"flash       {human(r['bytes_read_per_token'])} per token ({r['io']} reads)" if r["weight_bytes"] else "",
        f"selection   {r['select']}: {r['selected_share']:.1%} of the neurons, {r['window_hit_rate']:.1%} of their "
        f"units in the window of {human(r['window_bytes'])}"
        if r["select"] not in ("all", "router")
        else "",
        f"drafts      {r['accepted_tokens']} of {r['drafted_tokens']} drafted tokens became text"
        if r["drafted_tokens"]
        else "",
    )
    for line in filter(None, lines):
        click.echo(click.style(line, dim=True), err=True)
