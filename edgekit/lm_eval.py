"""edgekit's bundles in lm-evaluation-harness.

    python -m edgekit.lm_eval --model edgekit --model_args bundle=model.edgekit,ram=400M --tasks arc_easy

takes the options of `lm_eval`. In a program, importing this module is enough: `lm_eval.simple_evaluate(model="edgekit",
model_args="bundle=model.edgekit", ...)`. Needs `edgekit[lm-eval]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import RuntimeFailure
from edgekit.evaluate.likelihood import Judge
from edgekit.generate.embedding import require_writer
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Options, Sampling

try:
    import lm_eval.models  # noqa: F401  # the harness leaves its own out once there is another
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise RuntimeFailure("lm-evaluation-harness is not installed: pip install 'edgekit[lm-eval]'") from missing

MOST_TOKENS = 256  # of a generated text, if the task does not say


@register_model("edgekit")
class EdgekitLM(TemplateLM):  # type: ignore[misc]
    """A bundle as the harness asks for it: one text at a time, within its budget."""

    backend = "causal"

    def __init__(
        self,
        bundle: str,
        ram: str | int | None = None,
        context: int = 0,
        threads: int = 0,
        cache_type: str = "f16",
        batch_size: Any = None,  # texts are read one after the other; the harness always passes these
        device: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        """Opens a bundle; arguments as of `edgekit eval`."""
        super().__init__()
        options = Options(ram=ram, context=int(context), threads=int(threads), cache_type=cache_type)
        self.model = TextModel(Path(bundle), options)
        require_writer(self.model.manifest["model"])
        self.judge = Judge(self.model)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, or else the one that stands before it."""
        return self.model.eos_token_ids[0] if self.model.eos_token_ids else self.judge.prefix

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context."""
        return self.judge.prefix

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        return self.model.plan.context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special ones as the tokenizer adds them, unless told otherwise."""
        return self.model.tokenizer.encode(string, special=add_special_tokens is not False)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Likelihoods of continuations, those of equal contexts one after the other, as these are then read once."""
        order = sorted(range(len(requests)), key=lambda i: requests[i][1])
        found: dict[int, tuple[float, bool]] = {}
        for i in order:
            (key, context, continuation) = requests[i]
            likelihood = self.judge.judge(context, continuation)
            found[i] = (likelihood.nats, likelihood.greedy)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[i])
        return [found[i] for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Likelihoods of whole texts, in windows of the context's length."""
        out = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            out.append(sum(self.judge.judge(*make_disjoint_window(window)).nats for window in windows))
        return out

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts up to one of the task's stop strings."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        stop = settings.get("until") or []
        stop = [stop] if isinstance(stop, str) else list(stop)
        tokens = min(int(settings.get("max_gen_toks", MOST_TOKENS)), self.max_length - 1)
        temperature = float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0
        ids = self.tok_encode(context)[-(self.max_length - tokens) :] or [self.prefix_token_id]
        pieces = self.model.generate(ids, tokens, Sampling(temperature=temperature), stop)
        text = "".join(piece.text for piece in pieces)
        self.judge = Judge(self.model)  # the session holds another text now
        return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
