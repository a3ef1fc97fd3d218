"""Text from a bundle: `load` opens it, `TextModel.generate` streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.errors import RuntimeFailure
from edgekit.generate.chatting import ChatGeneration, prepare_chat, split_pictures
from edgekit.generate.dialogue import Prompt
from edgekit.generate.embedding import Embedder, Ranked, rank, require_writer, tell_cuts
from edgekit.generate.generation import PICTURES, Generation, Limits, Piece, TokenSession
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Plan, Sampling, Stats
from edgekit.verify import check_files

if TYPE_CHECKING:
    from edgekit.generate.grammar import Grammar
    from edgekit.pictures.prompt import Seen
    from edgekit.pictures.sight import Sight

__all__ = ["ChatGeneration", "Generation", "Limits", "Piece", "TextModel", "TokenSession", "load"]

DEFAULT_TOKENS = 128


class TextModel:
    """An open bundle with its tokenizer, and a session that `generate` uses unless it is given another."""

    def __init__(self, path: str | Path, options: Options | None = None, session: TokenSession | None = None) -> None:
        """Opens a bundle; see `load`. `session`: of something else that computes the bundle's model."""
        self.path = Path(path)
        self.manifest: dict[str, Any] = manifest.read(self.path).data
        check_files(self.path, self.manifest, "tokenizer/")  # small, and damage there is wrong text
        self.tokenizer = Tokenizer(self.path / "tokenizer")
        self.session: TokenSession = session or Session(self.path, options)
        self._options = options or Options()
        self._sight: Sight | None = None
        self.eos_token_ids: tuple[int, ...] = tuple(self.manifest["model"].get("eos_token_ids", ()))

    def close(self) -> None:
        """Frees the memory."""
        self.session.close()

    def __enter__(self) -> TextModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """Counters of the runtime."""
        return self.session.stats

    @property
    def plan(self) -> Plan:
        """What is resident and what is streamed."""
        return self.session.plan

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of each position of a text, f32 [len(token_ids), vocab_size]; begins afresh."""
        require_writer(self.manifest["model"])
        self.session.reset()
        return self.session.logits(token_ids)

    def grammar(self, kind: str, text: str | Mapping[str, Any]) -> Grammar:
        """What a text must be, for `generate`.

        Args:
            kind: "json_schema", "regex" or "lark".
            text: the schema (as text or object), the regular expression, or the Lark grammar.

        Raises:
            MissingPackageError: llguidance is not installed.
            RuntimeFailure: it is no such grammar.
        """
        from edgekit.generate.grammar import compile_grammar

        vocab_size = self.manifest["model"]["vocab_size"]
        return compile_grammar(kind, text, self.path / "tokenizer", vocab_size, self.eos_token_ids)

    def embed(
        self,
        texts: str | Sequence[str],
        prompt_name: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        pooling: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts, f32 [len(texts), dimensions]; of one text as well.

        Args:
            texts: to embed; what is too long for the model is cut, as in sentence-transformers.
            prompt_name: of the model's prompts, the one to put before each text, as "query".
            normalize: whether to divide each vector by its length; None for as the model was trained.
            dimensions: only the first of them, for models that were trained so (Matryoshka).
            pooling: "cls", "mean", "max" or "last"; None for the model's, of those that write "last".
            warn: called with a line about texts that were cut.

        Raises:
            RuntimeFailure: a text without tokens, a prompt that the model has not, a reranker, or an artifact.
        """
        reader, session = self._embedder()
        prompt = reader.prompt(prompt_name)
        cuts = [reader.text(text, prompt) for text in ([texts] if isinstance(texts, str) else texts)]
        tell_cuts(cuts, warn)
        return reader.vectors(session, [reader.tokens(cut) for cut in cuts], pooling, normalize, dimensions)

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top: int | None = None,
        raw: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> list[Ranked]:
        """Documents by how well they answer a query, best first.

        Args:
            query: a text.
            documents: texts; of a pair that is too long for the model, the end of the longer text is cut.
            top: how many to return; None for all.
            raw: scores as the model's head gives them, without a sigmoid.
            warn: called with a line about texts that were cut.

        Raises:
            RuntimeFailure: the model is no reranker.
        """
        reader, session = self._embedder()
        cuts = [reader.pair(query, document) for document in documents]
        tell_cuts(cuts, warn)
        return rank(reader.scores(session, [reader.tokens(cut) for cut in cuts], raw), top)

    def _embedder(self) -> tuple[Embedder, Session]:
        if not isinstance(self.session, Session):
            raise RuntimeFailure("an artifact makes no vectors; use the native backend")
        return Embedder(self.manifest, self.tokenizer, self.plan.context), self.session

    def look(self, sources: Sequence[str | Path | bytes]) -> list[Seen]:
        """Encodes pictures, for `edgekit.pictures.prompt`; under a budget the decoder makes room for that meanwhile.

        Args:
            sources: files, or their content.

        Raises:
            BundleError: the model sees no pictures.
            RuntimeFailure: a source is no picture, or an artifact computes the model.
            BudgetError: the budget has no room for the encoder beside the decoder.
            MissingPackageError: Pillow is not installed.
        """
        from edgekit.pictures.beside import look_beside
        from edgekit.pictures.sight import Sight

        if not isinstance(self.session, Session):
            raise RuntimeFailure(PICTURES)
        if self._sight is None:
            self._sight = Sight(self.path, self.manifest["model"])
        return look_beside(self._sight, self.session.model, sources, self._options)

    def _with_pictures(self, prompt: Prompt, seen: Sequence[Seen]) -> Prompt:
        from edgekit.pictures.prompt import seeing_prompt

        told = self.manifest["model"]["pictures"]
        made = seeing_prompt(prompt.text, seen, self.tokenizer, told, special=not self.tokenizer.has_chat_template)
        return replace(prompt, ids=made.ids, pictures=made.pictures)

    def create_session(self) -> Session:
        """Another session on the same weights, for a generation beside others: one session, one thread. `load` with
        `sessions` makes room for it under a budget.

        Raises:
            BudgetError: no room.
            RuntimeFailure: an artifact, which has one session.
        """
        if not isinstance(self.session, Session):
            raise RuntimeFailure("an artifact has one session; use the native backend for several")
        return self.session.model.create_session()

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        progress: Callable[[int, int], None] | None = None,
        prompt_cache: str | Path | None = None,
        session: TokenSession | None = None,
        reuse: bool = False,
        grammar: Grammar | None = None,
        pictures: Sequence[PictureRows] = (),
    ) -> Generation:
        """Continues a prompt, token by token; begins afresh unless `reuse` is given.

        Args:
            prompt: text, or token ids that are taken as they are.
            max_tokens: most tokens to generate.
            sampling: how to choose; llama.cpp's defaults if not given.
            stop: strings that end the text.
            ignore_eos: go on after EOS.
            progress: called with (tokens read, of the prompt's) while the prompt is evaluated.
            prompt_cache: file of a saved session: what it shares with the prompt is not evaluated again, and the
                prompt is saved there. Not for artifacts, nor models whose rotary frequencies change with the length.
            session: from `create_session`; the model's own if not given. Its tokens are forgotten.
            reuse: what the session's tokens share with the prompt is not evaluated again.
            grammar: what the text must be (`edgekit.generate.grammar`); it ends when that is complete.
            pictures: what stands in a prompt of token ids for pictures, in order (`edgekit.pictures`).

        Returns:
            The pieces, made as they are asked for.

        Raises:
            RuntimeFailure: the model makes vectors or scores, and no text.
        """
        require_writer(self.manifest["model"])
        return Generation(
            self,
            self.session if session is None else session,
            prompt,
            Limits(max_tokens, tuple(s for s in stop if s), ignore_eos),
            sampling or Sampling(),
            progress,
            None if prompt_cache is None else Path(prompt_cache),
            reuse,
            grammar,
            pictures,
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        schema: str | Mapping[str, Any] | None = None,
        session: TokenSession | None = None,
        tool_choice: str = "auto",
    ) -> ChatGeneration:
        """The answer to messages; what the session has of them already is not evaluated again.

        Args:
            messages: objects with a "role" ("system", "user", "assistant", "tool") and a "content": a text, or a list
                of {"type": "text", "text": ...} and {"type": "image", "image": a file or its content}.
            max_tokens: most tokens of the answer.
            sampling: how to choose; llama.cpp's defaults if not given.
            tools: functions as in OpenAI's API, for chat templates that know them.
            schema: a JSON schema that the answer follows.
            session: from `create_session`; the model's own if not given.
            tool_choice: "auto"; "required" if a tool must be called; "none"; or the name of the tool that must be.

        Returns:
            The pieces, made as they are asked for; when they have ended, its `message` is the answer with its calls.

        Raises:
            BundleError: no messages, the chat template does not take them, or pictures for a model that sees none.
            RuntimeFailure: a picture cannot be read, the schema cannot be followed, or no tool is the one that must be
                called.
        """
        shown, sources = split_pictures(messages)
        seen = self.look(sources) if sources else []
        request = prepare_chat(self.tokenizer, shown, tools, tool_choice, schema)
        grammar = None if request.schema is None else self.grammar("json_schema", request.schema)
        prompt = self._with_pictures(request.prompt, seen) if seen else request.prompt
        pieces = self.generate(
            prompt.ids,
            max_tokens,
            sampling,
            prompt.stop,
            session=session,
            reuse=True,
            grammar=grammar,
            pictures=prompt.pictures,
        )
        return ChatGeneration(pieces, request.answer)


def load(
    path: str | Path,
    ram: str | int | None = None,
    *,
    context: int = 0,
    threads: int = 0,
    batch: int = 0,
    io: str = "auto",
    cache_type: str = "f16",
    kernels: str | None = None,
    draft_tokens: int = 0,
    sessions: int = 1,
    lora: str | Path | None = None,
    pictures: bool | None = None,
) -> TextModel:
    """Opens a bundle.

    Args:
        path: the `.edgekit` folder.
        ram: hard budget for everything the runtime allocates ("400M", bytes); None for no limit.
        context: most tokens of prompt and text together; 0 for the model's, at most 2048.
        threads: compute threads; 0 for one per core.
        batch: tokens per prefill pass; 0 for 128, fewer under a tight budget.
        io: "direct" bypasses the page cache, "buffered" does not, "auto" tries direct first.
        cache_type: of keys and values: "f16", "f32", "q8" (8 bits and a scale for every 32) or "q4".
        kernels: name of a kernel set; the best of this CPU if None.
        draft_tokens: most tokens drafted from the text so far for one pass; with a draft model, see
            edgekit.generate.speculate.
        sessions: sessions that the budget leaves room for (`TextModel.create_session`).
        lora: a LoRA adapter to apply: a folder that PEFT saved it to, or a file of `edgekit adapter`.
        pictures: whether pictures will be shown to a model whose rows of a picture see each other (Gemma 3), so that
            its passes must hold one whole. None: without a budget.

    Raises:
        BudgetError: the budget is below the model's floor, which the message names.
        BundleError: not a bundle, or damaged.
    """
    options = Options(
        ram=ram,
        context=context,
        threads=threads,
        batch=batch,
        sessions=sessions,
        io=io,
        cache_type=cache_type,
        kernels=kernels,
        draft_tokens=draft_tokens,
        lora=lora,
        least_batch=_picture_rows(path) if (ram is None if pictures is None else pictures) else 0,
    )
    return TextModel(path, options)


def _picture_rows(path: str | Path) -> int:
    """Tokens of a picture that must be in one pass."""
    told = manifest.read(Path(path)).data["model"].get("pictures")
    rows = told["rows"] if isinstance(told, dict) and told.get("both_ways") else 0
    return rows if isinstance(rows, int) and 0 <= rows <= 1 << 16 else 0
