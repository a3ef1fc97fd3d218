"""Flags that people know from llama.cpp and mlx-lm: answered with what does that job here.

Those that mean the same are ordinary names of our options. The others would end in "no such option", or worse: a
parser reads `-ngl 99` as `-n gl`.
"""

from __future__ import annotations

import click

Answers = tuple[tuple[str, str], ...]  # (spellings of one flag, what to do instead)

_PROCESSOR: Answers = (
    (
        "-ngl/--n-gpu-layers/--gpu-layers/-dev/--device/-sm/--split-mode/-ts/--tensor-split/-mg/--main-gpu",
        "the processor computes; what stays in memory is chosen with --ram.",
    ),
    ("-fa/--flash-attn", "there is one kind of attention here; leave this out."),
    ("-tb/--threads-batch", "prompt and text use the same threads; give --threads."),
    ("--numa", "threads run on the cores that the system gives, as with taskset; choose their number with --threads."),
)
_RUN: Answers = (
    ("--mlock", "what fits stays in memory without it; say how much that is with --ram."),
    ("--mmap/--no-mmap", "weights are read and never mapped; choose the way with --io direct or --io buffered."),
    (
        "-cnv/--conversation/-no-cnv/--no-conversation/-i/--interactive/-if/--interactive-first",
        "run answers one prompt and ends; --chat wraps it in the model's chat template, edgekit chat talks.",
    ),
    ("-sys/--system-prompt", "a system message is given with --chat and --system."),
    ("--jinja/--chat-template/--use-default-chat-template", "--chat uses the template that the model came with."),
    ("--ignore-chat-template", "the prompt is taken as it is unless --chat is given."),
    ("--max-kv-size", "the context is given with --ctx-size."),
    (
        "-ctk/--cache-type-k/-ctv/--cache-type-v/--kv-bits/--kv-group-size/--quantized-kv-start",
        "keys and values have one type, which --cache-type chooses: f16, f32, q8 or q4.",
    ),
    ("-ub/--ubatch-size", "tokens that a pass takes are given with --batch-size."),
    ("--prompt-cache-file", "the file is given with --prompt-cache."),
    ("--prompt-cache-all/--prompt-cache-ro", "--prompt-cache keeps the prompt, and always writes it."),
    ("-hf/--hf-repo/-hfr/-mu/--model-url", "make a bundle of a hub id first: edgekit convert ID -o OUT."),
    ("--no-display-prompt", "the prompt is never printed; leave this out."),
    ("--verbose/--perf/--show-timings", "figures are printed after the text; for an object of them there is --json."),
    ("--no-perf", "text without the figures is what --quiet gives."),
    ("--lora-scaled/--adapter-path", "an adapter is given with --lora, which applies it with the scale of its own."),
    (
        "--mirostat/--typical/--dry-multiplier/--xtc-probability/--samplers",
        "sampling takes --temp, --top-k, --top-p, --min-p and penalties, as --repeat-penalty.",
    ),
    ("--draft-min/--draft-p-min", "only the most tokens to guess can be chosen, with --draft-max."),
    ("--extra-eos-token", "text that ends the generation is given with --stop."),
)
_CONVERT: Answers = (
    ("--hf-path", "the folder or hub id is the argument CHECKPOINT."),
    ("--mlx-path/--outfile", "the bundle's place is given with --output."),
    ("--outtype/--quantize/--dtype/--quant-predicate", "weights' types are chosen with --recipe, as in --recipe q4."),
    ("--q-mode", "the way to quantize is chosen with --method, or with --recipe."),
    ("--imatrix", "text to learn from is given with --calibration."),
    ("-d/--dequantize", "quantized checkpoints are not read; convert the original, as with --recipe f16."),
    ("--upload-repo", "there are no uploads; the bundle is a folder to copy."),
    ("--trust-remote-code", "code of a checkpoint is never run; leave this out."),
)
_POSITIONAL: Answers = (("-m/--model", "give the bundle as the argument BUNDLE."),)

# command -> the flags of other tools that it answers
ANSWERS: dict[str, Answers] = {
    "run": (*_PROCESSOR, *_RUN),
    "bench": (*_PROCESSOR, *_POSITIONAL),
    "plan": (*_PROCESSOR, *_POSITIONAL),
    "convert": _CONVERT,
}


def _option(flag: str, answer: str) -> click.Option:
    """A hidden option that ends the command with an answer; its value may be there or not."""

    def refuse(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None and not ctx.resilient_parsing:
            raise click.UsageError(f"{flag} is not an option here: {answer}", ctx)

    return click.Option(
        [flag, f"foreign_{flag.lstrip('-').replace('-', '_')}"],
        is_flag=False,
        flag_value="",
        hidden=True,
        is_eager=True,  # before what is missing or wrong elsewhere in the line
        expose_value=False,
        callback=refuse,
    )


def add_answers(name: str, command: click.Command) -> None:
    """Has a command answer the flags that other tools have for its job; adding them again changes nothing."""
    there = {option for param in command.params for option in param.opts}
    for flags, answer in ANSWERS.get(name, ()):
        command.params += [_option(flag, answer) for flag in flags.split("/") if flag not in there]
