"""Encoders: models whose tokens see all others, which give a vector of a text, or a score of a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.arch.attention import AttentionBuilder
from edgekit.arch.config import ACTIVATIONS, LIMIT
from edgekit.arch.family import EncoderParts
from edgekit.arch.feed_forward import FeedForwardBuilder
from edgekit.arch.spec import Block, Model, Norm, Pooling
from edgekit.errors import UnsupportedModelError

SCORES = "ForSequenceClassification"  # how the names of architectures end that have a head of scores
# What sentence-transformers writes into the config of a reranker: what is done with a score.
SIGMOIDS = {"torch.nn.modules.activation.Sigmoid": True, "torch.nn.modules.linear.Identity": False}


class EncoderBuilder(AttentionBuilder, FeedForwardBuilder):
    """The whole model."""

    def model(self, parts: EncoderParts) -> Model:
        """The description; pooling is that of a folder without a word about it (docs/embeddings.md)."""
        c, f = self.c, self.f
        vocab, rows = c.size("vocab"), c.size("context")
        offset = c.checked("pad_token_id", c.get("pad_token_id"), 0) + 1 if parts.padded_positions else 0
        if offset >= rows:
            raise UnsupportedModelError(
                f"config.json: pad_token_id is {offset - 1}, which leaves none of the {rows} positions"
            )
        types = None
        if parts.token_types:
            types = self.matrix("token_types", self._name(parts.token_types), c.size("type_vocab_size"), self.hidden)
        blocks: list[Block] = []
        for i in range(self.layers):
            blocks += [self.attention(i), *self.feed_forwards(i)]
        head = self._head(parts)
        context = min(rows - offset, LIMIT)
        return Model(
            f.model_types[0],
            vocab,
            self.hidden,
            context,
            self.matrix("embedding", self._name(f.embed), vocab, self.hidden),
            head.pop("head", None),
            tuple(blocks),
            tuple(self.ropes),
            embedding_norm=self.norm("embedding_norm", parts.embedding_norm),
            position=self.matrix("position", self._name(f.position), rows, self.hidden) if f.position else None,
            position_offset=offset,
            final_norm=self.norm("final_norm", f.final_norm or ""),
            output="score" if head else "embedding",
            pooling=self._pooling(context, bool(head)),
            token_types=types,
            **head,
        )

    def window(self, kind: str) -> int:
        """Tokens that a token sees to each side, itself among them; the config counts both sides together."""
        return self.c.size("window") // 2 + 1 if kind == "sliding_attention" else 0

    def layer_kind(self, i: int) -> str:
        """By the config's layer_types, or as older ModernBERT says it: every how many layers one sees all."""
        if self.f.windows == "layer_types" and self.c.get("layer_types") is None:
            return "sliding_attention" if i % self.c.size("global_attn_every_n_layers") else "full_attention"
        return super().layer_kind(i)

    def norm_places(self, name: str, template: str, post: str, i: int) -> tuple[Norm | None, Norm | None, Norm | None]:
        """As for all; the first layer of some has no norm before attention."""
        parts = self.f.encoder
        absent = parts is not None and not parts.first_norm and i == 0 and template == self.f.attention_norm
        return super().norm_places(name, "" if absent else template, post, i)

    def _head(self, parts: EncoderParts) -> dict[str, Any]:
        """The members of a model that make a score, of a checkpoint that has a head for one; else none."""
        listed = self.c.raw.get("architectures")
        named = [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
        if not any(name.endswith(SCORES) for name in named):
            return {}
        if not parts.score:
            raise UnsupportedModelError(f"config.json: edgekit does not compute scores of {self.f.model_types[0]}")
        labels = self.shapes.get(parts.score + ".weight", (1,))[0]
        if labels != 1:
            raise UnsupportedModelError(
                f"the checkpoint classifies texts with {labels} labels; edgekit computes rerankers, which have one"
            )
        made: dict[str, Any] = {
            "head": self.matrix("head", parts.score, 1, self.hidden),
            "head_bias": self.bias("head_bias", parts.score, 1, rule="always"),
        }
        project = self.matrix("head_project", parts.score_project, self.hidden, self.hidden)
        bias = self.bias("head_project_bias", parts.score_project, self.hidden, rule=parts.score_project_bias)
        prefix, self.prefix = self.prefix, ""  # the head's names are whole
        norm = self.norm("head_norm", parts.score_norm)
        self.prefix = prefix
        return made | {
            "head_project": project,
            "head_project_bias": bias,
            "head_activation": self._head_activation(parts),
            "head_norm": norm,
        }

    def _head_activation(self, parts: EncoderParts) -> str:
        name = self.c.get(parts.score_activation, parts.score_activation)
        if not isinstance(name, str) or (name not in ACTIVATIONS and name != "tanh"):
            raise self.c.bad(parts.score_activation, name, "a known activation")
        return ACTIVATIONS.get(name, name)

    def _pooling(self, context: int, scores: bool) -> Pooling:
        if not scores:
            return Pooling("mean", False, context)
        mode = self.c.get("classifier_pooling", "cls")
        if mode not in ("cls", "mean"):
            raise self.c.bad("classifier_pooling", mode, "'cls' or 'mean'")
        return Pooling(mode, False, context, sigmoid=_sigmoid(self.c.raw))


def _sigmoid(config: Mapping[str, Any]) -> bool:
    """Whether a score is the sigmoid of what the head gives: as sentence-transformers has it, unless the config says
    otherwise."""
    table = config.get("sentence_transformers")
    name = table.get("activation_fn") if isinstance(table, dict) else None
    name = config.get("sbert_ce_default_activation_function") if name is None else name
    if name is not None and (not isinstance(name, str) or name not in SIGMOIDS):
        raise UnsupportedModelError(
            f"config.json: the activation of scores is {str(name)[:80]!r}; edgekit computes {', '.join(SIGMOIDS)}"
        )
    return name is None or SIGMOIDS[name]
