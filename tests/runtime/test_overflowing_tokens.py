"""One token's logits overflow in the midst of a generation: an error with its cause, and the session can be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.conversion import convert
from edgekit.errors import EdgekitError, RuntimeFailure
from edgekit.runtime.model import Model
from edgekit.runtime.session import Session
from edgekit.runtime.together import advance_together
from edgekit.runtime.values import Options, Sampling
from tests.conftest import DEMO

BAD = 77  # the token after which no logits are finite
DIMENSION = 5  # of the residual, which is zero for all other tokens
NEXT = Sampling(temperature=0, biases=((BAD, -1e9),))
CHOOSE_BAD = Sampling(temperature=0, biases=((BAD, 1e9),))
CAUSE = r"logits are not finite at position {}: .*--cache-type f32"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with one dimension that only BAD uses, and which the last norm makes overflow."""
    folder = tmp_path_factory.mktemp("overflowing")
    shutil.copytree(DEMO, folder / "checkpoint")
    config = (folder / "checkpoint" / "config.json").read_text()
    (folder / "checkpoint" / "config.json").write_text(
        config.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    )
    tensors = {n: t.astype(np.float32) for n, t in load_file(folder / "checkpoint" / "model.safetensors").items()}
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings.copy()
    tensors["lm_head.weight"][:, DIMENSION] = 10
    embeddings[:, DIMENSION] = 0
    embeddings[BAD, DIMENSION] = 1
    tensors["model.norm.weight"][DIMENSION] = 3e38
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[DIMENSION] = 0
    save_file(tensors, folder / "checkpoint" / "model.safetensors")
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


def begin(session: Session, prompt: list[int]) -> list[int]:
    session.reset()
    session.eval(prompt)
    return [session.next(NEXT) for _ in range(4)]


def continuation(bundle: Path, tokens: list[int]) -> list[int]:
    with Session(bundle, Options(context=64)) as session:
        return begin(session, tokens)


def test_next_fails_with_the_cause_and_changes_nothing(bundle: Path) -> None:
    with Session(bundle, Options(context=64)) as session:
        chosen = begin(session, [3, 4, 5])
        assert session.next(CHOOSE_BAD) == BAD
        kept = [3, 4, 5, *chosen]
        for _ in range(2):  # the same call again meets the same error
            with pytest.raises(RuntimeFailure, match=CAUSE.format(len(kept))):
                session.next(NEXT)
            assert session.tokens == kept
        # Another token in its place, and the text is as if it had never been chosen.
        session.eval([9])
        assert session.tokens == [*kept, 9]
        assert [session.next(NEXT) for _ in range(4)] == continuation(bundle, [*kept, 9])


def test_a_rewound_session_goes_on(bundle: Path) -> None:
    with Session(bundle, Options(context=64)) as session:
        begin(session, [3, 4, 5])
        session.next(CHOOSE_BAD)
        with pytest.raises(RuntimeFailure, match="not finite"):
            session.next(NEXT)
        session.rewind(2)
        session.eval([5])
        assert [session.next(NEXT) for _ in range(4)] == continuation(bundle, [3, 4, 5])


def test_nothing_is_told_of_a_choice_whose_logits_are_gone(bundle: Path) -> None:
    with Session(bundle, Options(context=64)) as session:
        session.eval([3, 4, 5])
        session.next(CHOOSE_BAD)
        assert np.isfinite(session.logprobs(3)[0])
        with pytest.raises(RuntimeFailure, match="not finite"):
            session.next(NEXT)
        with pytest.raises(RuntimeFailure, match="no token was chosen last"):
            session.logprobs(3)


@pytest.mark.parametrize("forced", [[8, 9, BAD], [8, BAD]])
def test_a_drafted_token_fails_as_one_that_was_not(bundle: Path, forced: list[int]) -> None:
    """The prompt repeats itself, so that drafts are its tokens, BAD among them."""
    prompt = [7, 8, 9, BAD, 10, 11, 12, 7]
    with Session(bundle, Options(context=64, draft_tokens=4)) as session:
        session.eval(prompt)
        for token in forced:
            assert session.next(Sampling(temperature=0, biases=((token, 1e9),))) == token
        kept = [*prompt, *forced[:-1]]
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match=CAUSE.format(len(kept))):
                session.next(NEXT)
            assert session.tokens == kept
        if len(forced) == 3:
            assert session.stats.drafted_tokens > 0
        session.eval([10])
        assert [session.next(NEXT) for _ in range(4)] == continuation(bundle, [*kept, 10])


def test_other_sessions_of_the_pass_get_their_tokens(bundle: Path) -> None:
    prompts = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]
    with Model(bundle, Options(context=64, sessions=3)) as model:
        sessions = [model.create_session() for _ in prompts]
        for i, (session, prompt) in enumerate(zip(sessions, prompts, strict=True)):
            session.eval(prompt)
            session.next(CHOOSE_BAD if i == 1 else NEXT)
        errors: list[EdgekitError | None] = advance_together(sessions)
        assert [e is None for e in errors] == [True, False, True]
        assert "not finite at position 2" in str(errors[1])
        assert sessions[1].tokens == prompts[1]
        for i in (0, 2):
            rest = [session_next(sessions[i]) for _ in range(3)]
            assert [*sessions[i].tokens[len(prompts[i]) :], rest[-1]] == continuation(bundle, prompts[i])
        sessions[1].eval([5])
        assert [sessions[1].next(NEXT) for _ in range(4)] == continuation(bundle, [6, 7, 5])
        for session in sessions:
            session.close()


def session_next(session: Session) -> int:
    return session.next(NEXT)
