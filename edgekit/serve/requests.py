"""From a request's body to the jobs that it asks for."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import BundleError, EdgekitError
from edgekit.generate.answer import OPEN
from edgekit.generate.dialogue import Prompt, render_dialogue
from edgekit.generate.grammar import ANY_OBJECT, Grammar
from edgekit.runtime.values import Sampling
from edgekit.serve import fields
from edgekit.serve.bundles import Bundle
from edgekit.serve.errors import ApiError, bad
from edgekit.serve.fields import Body
from edgekit.serve.job import Job
from edgekit.serve.messages import read_messages
from edgekit.serve.tools import Tools, read_tools

NO_TOOLS = Tools()
MOST_CHOICES = 16
TEXT_TOKENS = 16  # of a completion, where the request names no number, as in OpenAI's API


@dataclass(frozen=True)
class TextRequest:
    """A request for text.

    Attributes:
        bundle: the model.
        jobs: one for each choice.
        stream: whether pieces are sent as they come.
        usage: whether a stream ends with the numbers of tokens.
        tools: that the model may call.
        thinking: the prompt has opened the reasoning.
        echo: what comes before the text.
    """

    bundle: Bundle
    jobs: tuple[Job, ...]
    stream: bool
    usage: bool
    tools: Tools = NO_TOOLS
    thinking: bool = False
    echo: str = ""


def find_bundle(known: dict[str, Bundle], body: Body, output: str = "") -> Bundle:
    """The bundle that a request names; where it names none, the first one whose model gives `output`, or the first.

    Raises:
        ApiError: there is no such bundle.
    """
    name = fields.text(body, "model")
    if not name:
        return next((b for b in known.values() if b.output == output), next(iter(known.values())))
    if name not in known:
        names = ", ".join(known)
        raise ApiError(404, f"there is no model {name[:80]!r}; there is {names}", "model_not_found", "model")
    return known[name]


def check_writes(bundle: Bundle) -> None:
    """Refuses a model that writes no text.

    Raises:
        ApiError: says what it is for.
    """
    if bundle.output != "logits":
        use = "/v1/rerank" if bundle.output == "score" else "/v1/embeddings"
        raise ApiError(400, f"the model '{bundle.id}' writes no text; it is for {use}", "unsupported_model", "model")


def read_chat(bundle: Bundle, body: Body) -> TextRequest:
    """A request to /v1/chat/completions.

    Raises:
        ApiError: something in it is wrong.
    """
    pictures: list[bytes] | None = [] if bundle.sees else None
    messages, tools = read_messages(body.get("messages"), pictures), read_tools(body)
    prompt = render(bundle, messages, tools)
    if pictures:
        from edgekit.serve.pictures import with_places

        prompt = with_places(bundle, prompt, pictures)
    grammar = _format_grammar(bundle, fields.table(body, "response_format"))
    if tools.required:
        grammar = _grammar(bundle, tools.grammar(), "tools")
    top = fields.whole(body, "top_logprobs", 0, 0, 20)
    job = _job(bundle, body, prompt.ids, ("max_completion_tokens", "max_tokens"), None)
    job = replace(
        job,
        stop=(*job.stop, *prompt.stop),
        pictures=tuple(pictures or ()),
        places=prompt.pictures,
        grammar=grammar,
        top_logprobs=top if fields.flag(body, "logprobs") else None,
    )
    return TextRequest(bundle, _choices(job, body), *_stream(body), tools, thinking=prompt.text.rstrip().endswith(OPEN))


def read_text(bundle: Bundle, body: Body) -> TextRequest:
    """A request to /v1/completions; the prompt is a text, or a list of token ids, or a list with one of these."""
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list):
        ids = tuple(_token(t, bundle) for t in prompt)
        shown = bundle.tokenizer.decode(ids)
    else:
        shown = fields.checked_text(prompt, "prompt")
        ids = tuple(bundle.tokenizer.encode(shown))
    if not ids:
        raise bad("'prompt' is empty", "prompt")
    job = _job(bundle, body, ids, ("max_tokens",), TEXT_TOKENS)
    top = fields.whole(body, "logprobs", -1, 0, 20)
    grammar = _format_grammar(bundle, fields.table(body, "response_format"))
    job = replace(
        job, top_logprobs=None if top < 0 else top, grammar=grammar, ignore_eos=fields.flag(body, "ignore_eos")
    )
    echo = shown if fields.flag(body, "echo") else ""
    return TextRequest(bundle, _choices(job, body), *_stream(body), echo=echo)


def render(bundle: Bundle, messages: list[dict[str, Any]], tools: Tools) -> Prompt:
    """The prompt of messages.

    Raises:
        ApiError: the template does not take them.
    """
    try:
        return render_dialogue(bundle.tokenizer, messages, list(tools.schemas) or None)
    except BundleError as error:
        raise bad(str(error), "messages") from error


def _token(value: object, bundle: Bundle) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < bundle.vocab_size:
        raise bad(f"'prompt' has {value!r:.40}, which is no token of the {bundle.vocab_size}", "prompt")
    return value


def _job(bundle: Bundle, body: Body, ids: tuple[int, ...], limits: tuple[str, ...], default: int | None) -> Job:
    room = bundle.context - len(ids)
    if room < 0:
        raise ApiError(
            400,
            f"the prompt has {len(ids)} tokens, and the context of {bundle.id} has {bundle.context}",
            "context_length_exceeded",
        )
    most = room + 1  # the last token is not evaluated
    for name in limits:
        if body.get(name) is not None:
            most = min(most, fields.whole(body, name, 1, 1, 1 << 31))
            break
    else:
        most = most if default is None else min(most, default)
    return Job(bundle.id, ids, most, _sampling(bundle, body, len(ids)), fields.stop_strings(body))


def _sampling(bundle: Bundle, body: Body, prompt_tokens: int) -> Sampling:
    seed = fields.whole(body, "seed", secrets.randbits(32), -(1 << 63), (1 << 64) - 1)
    default = Sampling()
    return Sampling(
        temperature=fields.number(body, "temperature", 1.0, 0, 100),
        top_p=fields.number(body, "top_p", 1.0, 0, 1),
        top_k=fields.whole(body, "top_k", 0, 0, 1 << 31),
        min_p=fields.number(body, "min_p", 0.0, 0, 1),
        repeat_penalty=fields.number(body, "repeat_penalty", default.repeat_penalty, 0, 100),
        presence_penalty=fields.number(body, "presence_penalty", 0, -2, 2),
        frequency_penalty=fields.number(body, "frequency_penalty", 0, -2, 2),
        penalty_begin=prompt_tokens,
        biases=fields.biases(body, bundle.vocab_size),
        seed=seed,
    )


def _choices(job: Job, body: Body) -> tuple[Job, ...]:
    """A job for each choice, each with a seed of its own."""
    count = fields.whole(body, "n", 1, 1, MOST_CHOICES)
    return tuple(replace(job, sampling=replace(job.sampling, seed=job.sampling.seed + i)) for i in range(count))


def _stream(body: Body) -> tuple[bool, bool]:
    return fields.flag(body, "stream"), fields.flag(fields.table(body, "stream_options"), "include_usage")


def _format_grammar(bundle: Bundle, wanted: dict[str, Any]) -> Grammar | None:
    """What a response_format asks for."""
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return _grammar(bundle, wanted.get("schema") or dict(ANY_OBJECT), "response_format")
    if kind == "json_schema":
        described = wanted.get("json_schema", wanted)
        schema = described.get("schema") if isinstance(described, dict) else None
        if not isinstance(schema, dict):
            raise bad("'response_format.json_schema' has no schema", "response_format")
        return _grammar(bundle, schema, "response_format")
    raise bad("'response_format.type' must be text, json_object or json_schema", "response_format")


def _grammar(bundle: Bundle, schema: dict[str, Any], param: str) -> Grammar:
    try:
        return bundle.grammar("json_schema", schema)
    except EdgekitError as error:
        raise bad(str(error), param) from error
