"""Models and sessions: several on the same weights, closed in any order, given what no model can take."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import edgekit
from edgekit.cli.main import cli
from edgekit.conversion import convert
from edgekit.errors import BudgetError, RuntimeFailure
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import LogitSampler, Session
from edgekit.runtime.values import Options, Sampling
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("sessions") / "demo", "palette4").path


def test_sessions_share_a_model_from_several_threads(bundle: Path) -> None:
    options = Options(context=64, sessions=4, select="all")
    plan = plan_bundle(bundle, options)
    options = Options(context=64, sessions=4, select="all", ram=plan.floor_bytes + plan.weight_bytes // 2)
    prompts = [[3 + i, 4, 5 + i] for i in range(4)]

    def text(model: Model, prompt: list[int]) -> list[int]:
        with model.create_session() as session:
            session.eval(prompt)
            return [session.next(GREEDY) for _ in range(30)]

    with Model(bundle, options) as model:
        want = [text(model, p) for p in prompts]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda p: text(model, p), prompts)) == want
    assert len({tuple(w) for w in want}) > 1


def test_generations_beside_each_other(bundle: Path) -> None:
    with edgekit.load(bundle, context=64, sessions=2) as model:
        want = [[p.token for p in model.generate(t, 12, GREEDY)] for t in ("Once", "The dog")]
        a = model.generate("Once", 12, GREEDY)
        b = model.generate("The dog", 12, GREEDY, session=model.create_session())
        got: list[list[int]] = [[], []]
        for one, other in zip(a, b, strict=True):
            got[0].append(one.token)
            got[1].append(other.token)
        assert got == want
        assert (a.finish_reason, b.finish_reason) == ("length", "length")


def test_no_room_for_another_session(bundle: Path) -> None:
    options = Options(context=512, cache_type="f32")
    with Model(bundle, Options(ram=plan_bundle(bundle, options).floor_bytes, context=512, cache_type="f32")) as model:
        held = [model.create_session()]
        with pytest.raises(BudgetError):
            held += [model.create_session() for _ in range(64)]


def arguments(method: Any, other: Any = None) -> list[Any]:
    """Something for each parameter that has no default; `other`: a session that is open."""
    values = {
        "other": other, "messages": [{"role": "user", "content": "Hello"}],
        "tokens": [3], "sampling": GREEDY, "path": "/nowhere", "position": 0, "block": 1, "draft": None, "ram": None,
        "x": np.zeros((1, 256), np.float32), "take": print, "fill": None, "count": 1, "token_ids": [3], "prompt": [3],
        "texts": ["x"], "query": "x", "documents": ["x"], "rows": np.zeros((1, 256), np.float32), "sources": [b"x"],
        "patches": np.zeros((1, 8), np.float32), "positions": [0],
    }  # fmt: skip
    given = inspect.signature(method).parameters.values()
    return [values[p.name] for p in given if p.default is inspect.Parameter.empty]


def use(thing: Any, name: str, other: Any = None) -> None:
    """Calls a method, or reads a property; what is lazy is begun."""
    member = inspect.getattr_static(type(thing), name)
    if isinstance(member, property):
        getattr(thing, name)
        return
    method = getattr(thing, name)
    out = method(*arguments(method, other))
    if hasattr(out, "__next__"):
        next(out)
    elif hasattr(out, "__enter__") and not isinstance(out, Session):
        with out:
            pass


HARMLESS = {"close", "register", "grammar", "vocab_size", "hidden_size", "threads", "kernels", "given", "look"}


@pytest.mark.parametrize("kind", ["session", "session of a closed model", "model", "text model"])
def test_every_call_on_what_is_closed_raises(bundle: Path, kind: str) -> None:
    if kind == "text model":
        thing: Any = edgekit.load(bundle, context=64)
        thing.close()
    elif kind == "session":
        thing = Session(bundle, Options(context=64))
        thing.close()
    else:
        model = Model(bundle, Options(context=64))
        thing = model if kind == "model" else model.create_session()
        model.close()
    thing.close()  # again
    names = [n for n in dir(type(thing)) if not n.startswith("_") and n not in HARMLESS]
    assert len(names) >= 3
    with Session(bundle, Options(context=64)) as other:
        for name in names:
            with pytest.raises(RuntimeFailure, match="closed"):
                use(thing, name, other)


def test_closing_ends_an_evaluation_of_another_thread(bundle: Path) -> None:
    model = Model(bundle, Options(context=512))
    session, begun, ended = model.create_session(), threading.Event(), []

    def work() -> None:
        try:
            while True:
                session.eval([5] * 200)
                session.rewind(0)
                begun.set()
        except RuntimeFailure as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    model.close()
    thread.join(60)
    assert not thread.is_alive()
    assert "closed" in ended[0] or "cancelled" in ended[0]


@pytest.mark.parametrize("bad", [-1, 1 << 30, 1 << 31, (1 << 32) + 3, 1 << 64, 3.0, "3", None])
def test_ids_that_are_none_are_refused(bundle: Path, bad: Any) -> None:
    with Session(bundle, Options(context=64)) as session:
        for call in (session.eval, session.logits):
            with pytest.raises(RuntimeFailure, match=r"vocabulary|whole numbers"):
                call([3, bad])
        assert session.position == 0
        session.eval([np.int64(3), np.uint16(4)])
        session.eval(np.array([5, 6]))  # type: ignore[arg-type]
        assert session.tokens == [3, 4, 5, 6]


@pytest.mark.parametrize("position", [-1, 3, 1 << 31, 1 << 32, (1 << 32) + 1])
def test_positions_that_are_none_are_refused(bundle: Path, position: int) -> None:
    with Session(bundle, Options(context=64)) as session:
        session.eval([3, 4])
        with pytest.raises(RuntimeFailure, match=r"out of range|has 2 tokens"):
            session.rewind(position)
        assert session.position == 2
        session.rewind(np.int64(1))
        assert session.tokens == [3]


@pytest.mark.parametrize("how", [{"top_k": 1 << 32}, {"repeat_last_n": 1 << 40}, {"temperature": float("nan")}])
def test_sampling_that_is_out_of_range_is_refused(bundle: Path, how: dict[str, Any]) -> None:
    with Session(bundle, Options(context=64)) as session:
        session.eval([3])
        with pytest.raises(RuntimeFailure, match=r"out of range|finite"):
            session.next(Sampling(**how))
        assert session.next(GREEDY) >= 0


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose last norm is so great that its logits overflow."""
    folder = tmp_path_factory.mktemp("overflow")
    source = folder / "checkpoint"
    source.mkdir()
    for file in DEMO.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    name = next(n for n in tensors if n.endswith("model.norm.weight"))
    tensors = {n: t.astype(np.float32) for n, t in tensors.items()}
    tensors[name] = np.full_like(tensors[name], 3e38)
    save_file(tensors, source / "model.safetensors")
    return convert(source, folder / "bundle", "f32").path


def test_logits_that_are_not_finite_are_an_error_with_a_cause(overflowing: Path) -> None:
    for drafts in (0, 4):
        with Session(overflowing, Options(context=64, draft_tokens=drafts)) as session:
            for call in (session.eval, session.logits):
                with pytest.raises(RuntimeFailure, match=r"logits are not finite at position \d.*--cache-type f32"):
                    call([3, 4, 5])
                assert session.position == 0
            with pytest.raises(RuntimeFailure, match="nothing was evaluated"):
                session.next(GREEDY)
    with pytest.raises(RuntimeFailure, match="logits are not finite"):
        LogitSampler().sample(np.array([0, np.nan], np.float32), [], GREEDY)


def test_run_says_so_and_fails(overflowing: Path) -> None:
    done = CliRunner().invoke(cli, ["run", str(overflowing), "-p", "Once", "-n", "4"])
    assert done.exit_code != 0
    assert "not finite" in str(done.exception) + done.output
