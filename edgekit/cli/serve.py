"""edgekit serve"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.common import (
    cache_type_option,
    context_option,
    lora_option,
    quiet_option,
    threads_option,
    waiting,
)
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--ram", help="Hard memory budget of the runtime, for all requests together, as in 2G.")
@click.option("--parallel", "-np", type=click.IntRange(1, 64), default=4, show_default=True, help="Texts at a time.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--allow-remote", is_flag=True, help="Allow an address that other machines reach.")
@click.option(
    "--api-key", envvar="EDGEKIT_API_KEY", default="", help="Key that requests must bring.  [env: EDGEKIT_API_KEY]"
)
@click.option(
    "--cors-origin", multiple=True, help="Origin of web pages that may ask; may be repeated.  [default: none]"
)
@context_option("Context of each text in tokens.  [default: the model's, at most 2048]")
@threads_option
@cache_type_option
@lora_option
@kv_policy_options
@click.option("--draft-max", type=click.IntRange(0, 64), default=0, help="Guess up to N tokens from the text so far.")
@click.option("--queue", type=click.IntRange(0), default=32, show_default=True, help="Most requests that wait.")
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds for a request.")
@click.option("--max-body", default="4M", show_default=True, help="Most bytes of a request.")
@click.option(
    "--prefix-cache", type=click.Path(path_type=Path), metavar="DIR", help="Keep beginnings of prompts in this folder."
)
@click.option("--prefix-cache-size", help="Most bytes in --prefix-cache.  [default: 1G]")
@quiet_option
def command(
    bundles: tuple[Path, ...],
    ram: str | None,
    parallel: int,
    host: str,
    port: int,
    allow_remote: bool,
    api_key: str,
    cors_origin: tuple[str, ...],
    context: int,
    threads: int,
    cache_type: str,
    lora: Path | None,
    draft_max: int,
    queue: int,
    timeout: float,
    max_body: str,
    prefix_cache: Path | None,
    prefix_cache_size: str | None,
    quiet: bool,
    **kv: Any,
) -> None:
    """Answer HTTP requests with the models of BUNDLE..., within --ram.

    The addresses are those of OpenAI's API: /v1/chat/completions, /v1/completions, /v1/responses and /v1/models;
    besides /health, /metrics, /tokenize, /detokenize and /apply-template. A bundle is loaded when it is first asked
    for. A model without a chat template reads messages as a plain transcript. Needs edgekit[serve].

    \b
    Examples:
      edgekit serve tiny.edgekit --ram 300M
      edgekit serve small.edgekit large.edgekit --ram 2G --parallel 8
      curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
    """
    from edgekit.errors import RuntimeFailure
    from edgekit.runtime.values import Options
    from edgekit.serve.bundles import Bundles, open_bundle
    from edgekit.serve.listen import check_host, listen, load_app
    from edgekit.serve.loopback import is_loopback
    from edgekit.sizes import parse_bytes

    if lora is not None and len(bundles) > 1:
        raise click.UsageError("A LoRA adapter belongs to one bundle; serve that alone.")
    check_host(host, allow_remote)
    make_app = load_app()
    from edgekit.serve.guard import Guard
    from edgekit.serve.prefix_folder import PrefixFolder
    from edgekit.serve.scheduler import Limits, Scheduler

    guard = Guard(api_key, cors_origin, is_loopback(host), parse_bytes(max_body))
    options = Options(
        ram=ram,
        threads=threads,
        sessions=parallel,
        draft_tokens=draft_max,
        cache_type=cache_type,
        lora=lora,
        **kv_policy_from(kv),
    )
    if prefix_cache is None and prefix_cache_size is not None:
        raise RuntimeFailure("--prefix-cache-size is of --prefix-cache DIR, which is missing")
    most = parse_bytes(prefix_cache_size or "1G")
    with waiting("reading the bundles", quiet):
        opened = [open_bundle(path, context) for path in bundles]
        folder = None if prefix_cache is None else PrefixFolder(prefix_cache, most, _warn)
        found = Bundles(opened, options, folder)
    scheduler = Scheduler(found, Limits(queue, timeout))
    if not quiet:
        click.echo(f"serving {', '.join(found.known)} at http://{host}:{port}", err=True)
    listen(make_app(scheduler, guard), host, port, scheduler.close)


def _warn(line: str) -> None:
    click.echo(f"edgekit: warning: {line}", err=True)
