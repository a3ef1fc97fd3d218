"""edgekit plan"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import cache_type_option, context_option, human, json_option, print_json, threads_option
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options
from edgekit.cli.profile import profile_figures, profile_lines

if TYPE_CHECKING:
    from edgekit.plan.predict import Prediction


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--ram", multiple=True, help="Budget, as in 400M; several for a table.")
@click.option("--sweep", type=click.IntRange(2, 100), help="As many budgets, from the floor to the whole model.")
@click.option(
    "--select",
    type=click.Choice(["auto", "all", "exact", "predicted", "threshold", "prompt", "router"]),
    default="auto",
    show_default=True,
)
@context_option("Context in tokens.  [default: the model's, at most 2048]")
@threads_option
@cache_type_option
@kv_policy_options
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), help="A profile of another place.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw tok/s against the budget (needs matplotlib).")
@json_option
def command(
    bundle: Path,
    ram: tuple[str, ...],
    sweep: int | None,
    select: str,
    context: int,
    threads: int,
    cache_type: str,
    profile_path: Path | None,
    plot: Path | None,
    as_json: bool,
    **kv: Any,
) -> None:
    """Say what will be in memory, what will be read, and how fast it will be, before running.

    \b
    Examples:
      edgekit plan tiny.edgekit --ram 300M
      edgekit plan tiny.edgekit --sweep 10 --plot tiny.png
    """
    from edgekit.plan import device
    from edgekit.plan.corrections import load_corrections
    from edgekit.plan.predict import predict
    from edgekit.runtime.model import plan_bundle
    from edgekit.runtime.values import Options
    from edgekit.sizes import parse_bytes

    path = profile_path or device.default_path()
    profile = device.load(path)
    corrections = load_corrections(path, profile.made)
    base = Options(context=context, threads=threads, select=select, cache_type=cache_type, **kv_policy_from(kv))
    budgets: list[int] = [parse_bytes(r) for r in ram]
    if sweep:
        whole = plan_bundle(bundle, base)
        step = (whole.budget_bytes - whole.floor_bytes) / (sweep - 1)
        budgets += [round(whole.floor_bytes + i * step) for i in range(sweep)]
    made = [predict(bundle, replace(base, ram=b or None), profile, corrections) for b in budgets or [0]]
    if plot is not None:
        _draw(plot, bundle, made)
    if as_json:
        origin = profile_figures(path, profile, corrections)
        print_json({"bundle": str(bundle), "plans": [asdict(p) for p in made], "profile": origin})
        return
    if len(made) == 1:
        _show(made[0])
    else:
        _table(made)
    for line in profile_lines(profile, corrections):
        click.echo(line)


def _show(p: Prediction) -> None:
    plan = p.plan
    click.echo(f"budget      {human(plan.budget_bytes)} (floor {human(plan.floor_bytes)}), selection {plan.select}")
    click.echo(
        f"memory      {human(plan.resident_bytes)} of {human(plan.weight_bytes)} weights, window "
        f"{human(plan.window_bytes)}, keys and values {human(plan.kv_bytes)}, buffers "
        f"{human(plan.activation_bytes + plan.stream_buffer_bytes)}"
    )
    click.echo(f"flash       {human(p.bytes_per_token)} per token in {p.reads_per_token or 'large'} reads")
    click.echo(f"expected    {p.tokens_per_second:.1f} tok/s: " + "; ".join(p.why))


def _table(made: list[Prediction]) -> None:
    click.echo(f"{'budget':>12}{'resident':>12}{'window':>12}{'KV':>12}{'flash/token':>14}{'tok/s':>9}  selection")
    for p in made:
        click.echo(
            f"{human(p.plan.budget_bytes):>12}{human(p.plan.resident_bytes):>12}{human(p.plan.window_bytes):>12}"
            f"{human(p.plan.kv_bytes):>12}"
            f"{human(p.bytes_per_token):>14}{p.tokens_per_second:>9.1f}  {p.plan.select}"
        )


def _draw(path: Path, bundle: Path, made: list[Prediction]) -> None:
    from edgekit.cli.plots import curve

    rows: list[tuple[Any, Any]] = [(p.plan.budget_bytes / 2**20, p.tokens_per_second) for p in made]
    curve(path, f"{bundle.name}: expected speed", "budget, MiB", "tok/s", {made[0].plan.select: rows})
