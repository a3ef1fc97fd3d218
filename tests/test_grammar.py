"""Structured output: what a grammar allows, with and without drafts, prompt caches, and errors that name the cause."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.generate.loop import TextModel
from edgekit.runtime.session import Mask, Session
from edgekit.runtime.values import Options, Sampling
from tests.conftest import DEMO, ROOT

GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.0, seed=3)
PROMPT = "Once upon a time, there was a little girl. The little girl"
ANIMAL: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "likes": {"type": "array", "items": {"enum": ["the little girl", "the park"]}, "minItems": 2, "maxItems": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
    },
    "required": ["name", "likes", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("grammar") / "demo", "f16").path


@pytest.fixture(scope="module")
def model(bundle: Path) -> TextModel:
    return TextModel(bundle, Options(context=300, select="all"))


def written(model: TextModel, grammar: Any, sampling: Sampling, **more: Any) -> list[int]:
    return [p.token for p in model.generate(PROMPT, 150, sampling, grammar=grammar, **more) if p.token >= 0]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_drafts_change_no_constrained_text(bundle: Path, model: TextModel, sampling: Sampling) -> None:
    grammars = [
        ("json_schema", ANIMAL),
        ("regex", r"(the little girl was so happy\. ){2,4}the end"),
        ("lark", 'start: (" the little girl" | " was so happy")~8..12 "."'),
    ]
    with TextModel(bundle, Options(context=300, select="all", draft_tokens=6)) as drafting:
        for kind, text in grammars:
            want = written(model, model.grammar(kind, text), sampling)
            assert written(drafting, drafting.grammar(kind, text), sampling) == want
        assert drafting.stats.accepted_tokens > 0


def test_what_comes_after_a_constrained_text_is_free(model: TextModel) -> None:
    want = written(model, None, GREEDY)
    written(model, model.grammar("regex", "[0-9]{4}"), GREEDY)
    assert written(model, None, GREEDY) == want


def test_prompt_caches_and_grammars_go_together(model: TextModel, tmp_path: Path) -> None:
    grammar = model.grammar("json_schema", ANIMAL)
    want = written(model, grammar, GREEDY)
    for _ in range(2):
        assert written(model, grammar, GREEDY, prompt_cache=tmp_path / "cache") == want


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose texts end: all strings, lists and numbers are bounded."""
    kinds = ["string", "integer", "boolean", "null", "enum", "pattern", "number"]
    kind = rng.choice(kinds + ["object", "array"] * 3 if depth < 3 else kinds)
    if kind == "object":
        names = rng.sample(["a", "größe", "名前", "x y", 'quo"te', "n1", "🦊"], rng.randint(0, 3))
        members = {n: random_schema(rng, depth + 1) for n in names}
        return {"type": "object", "properties": members, "required": names, "additionalProperties": False}
    if kind == "array":
        least = rng.randint(0, 2)
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": least, "maxItems": least + 1}
    if kind == "enum":
        return {"enum": rng.sample(["red", "grün", 3, True, None, {"k": [1]}, "line\nbreak"], 3)}
    if kind == "pattern":
        return {
            "type": "string",
            "pattern": rng.choice(["^[a-c]{2,5}$", "^(cat|dog)s?$", "^\\d{3}-\\d{2}$", "^ä+b$"]),
            "maxLength": 8,
        }
    if kind == "string":
        return {"type": "string", "maxLength": rng.randint(0, 6)}
    if kind == "integer":
        least = rng.randint(-20, 20)
        return {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 50)}
    return {"type": "number", "minimum": 0, "maximum": 9} if kind == "number" else {"type": kind}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value follows one of these schemas: what JSON Schema says of the keywords above."""
    if "enum" in schema:
        return any(type(value) is type(e) and value == e for e in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        members = schema["properties"]
        return (
            isinstance(value, dict)
            and set(value) == set(members)
            and all(is_valid(value[n], s) for n, s in members.items())
        )
    if kind == "array":
        right = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return right and all(is_valid(v, schema["items"]) for v in value)
    if kind == "string":
        fits = isinstance(value, str) and len(value) <= schema["maxLength"]
        return fits and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if kind in ("integer", "number"):
        right = isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
        return right and schema["minimum"] <= value <= schema["maximum"]
    return value is None if kind == "null" else isinstance(value, bool)


def test_random_schemas_are_always_followed(bundle: Path) -> None:
    """A number that is cut off by the most tokens would be no fault of the grammar, so lengths are bounded."""
    rng, ended = random.Random(4), 0
    with TextModel(bundle, Options(context=512)) as model:
        for number in range(60):
            schema = random_schema(rng)
            sampling = Sampling(temperature=rng.choice([0.0, 1.0, 2.0]), seed=number)
            stream = model.generate("The", 400, sampling, grammar=model.grammar("json_schema", schema))
            text = "".join(p.text for p in stream)
            if stream.finish_reason == "eos":
                ended += 1
                assert is_valid(json.loads(text), schema), (schema, text)
    assert ended >= 55


def test_sessions_choose_what_a_mask_allows(bundle: Path) -> None:
    with Session(bundle, Options(context=64)) as session:
        session.eval([3, 4])
        free = session.next(GREEDY)

        def only(mask: Mask) -> None:
            mask[:] = 0
            mask[100 // 32] = np.uint32(1 << (100 % 32))

        session.mask_with(only)
        assert [session.next(GREEDY) for _ in range(3)] == [100] * 3
        assert session.tokens == [3, 4, free, 100, 100]
        session.mask_with(None)
        assert session.next(GREEDY) >= 0


def test_a_mask_that_fails_ends_the_call_with_its_error(bundle: Path) -> None:
    def fail(mask: Mask) -> None:
        raise ZeroDivisionError("a reason")

    def nothing(mask: Mask) -> None:
        mask[:] = 0

    with Session(bundle, Options(context=64)) as session, Session(bundle, Options(context=64)) as plain:
        for one in (session, plain):
            one.eval([3, 4])
        want = [plain.next(GREEDY) for _ in range(3)]
        got = [session.next(GREEDY)]
        session.mask_with(fail)
        with pytest.raises(ZeroDivisionError, match="a reason"):
            session.next(GREEDY)
        session.mask_with(nothing)
        with pytest.raises(RuntimeFailure, match="allows no token"):
            session.next(GREEDY)
        session.mask_with(None)
        got += [session.next(GREEDY) for _ in range(2)]
        assert got == want
        assert session.tokens == plain.tokens


@pytest.mark.parametrize("drafts", [0, 6])
def test_log_probabilities_are_the_models(bundle: Path, drafts: int) -> None:
    ids = [3, 4, 5, 6, 7, 8, 3, 4]
    with Session(bundle, Options(context=64, select="all", draft_tokens=drafts)) as session:
        with pytest.raises(RuntimeFailure, match="no token was chosen"):
            session.logprobs(1)
        session.eval(ids)
        found = []
        for _ in range(12):
            token = session.next(Sampling(temperature=0, biases=((500, 1.0),)))
            found.append((token, *session.logprobs(5)))
        with pytest.raises(RuntimeFailure, match="no more than"):
            session.logprobs(1 << 20)
        session.reset()
        rows = session.logits([*ids, *(f[0] for f in found[:-1])])[len(ids) - 1 :].astype(np.float64)
    for row, (token, chosen, top) in zip(rows, found, strict=True):
        want = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert abs(chosen - want[token]) < 2e-2
        assert [t for t, _ in top] == list(np.argsort(-want, kind="stable")[:5]) or np.ptp(np.sort(want)[-6:]) < 0.1
        assert np.allclose([p for _, p in top], np.sort(want)[::-1][:5], atol=2e-2)


def test_biases_and_penalties_work_with_drafts(bundle: Path) -> None:
    sampling = Sampling(
        temperature=0, frequency_penalty=0.7, presence_penalty=0.4, penalty_begin=8, biases=((5, 3.0), (7, -9.0))
    )
    texts = []
    for drafts in (0, 6):
        with Session(bundle, Options(context=128, select="all", draft_tokens=drafts)) as session:
            session.eval([3, 4, 5, 6, 7, 8, 3, 4])
            texts.append([session.next(sampling) for _ in range(60)])
    assert texts[0] == texts[1]
    with Session(bundle, Options(context=64)) as session:
        session.eval([3])
        for bad in (((99999, 1.0),), ((-1, 1.0),), ((5, float("nan")),)):
            with pytest.raises(RuntimeFailure, match=r"vocabulary|finite"):
                session.next(Sampling(biases=bad))
        assert session.position == 1


def test_a_seed_begins_again_behind_a_rewind(bundle: Path) -> None:
    sampling = Sampling(temperature=1.5, seed=9)
    with Session(bundle, Options(context=64)) as session:
        texts = []
        for _ in range(2):
            session.rewind(0)
            session.eval([3, 4])
            texts.append([session.next(sampling) for _ in range(20)])
    assert texts[0] == texts[1]


def test_run_takes_schemas_grammars_and_expressions(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(ANIMAL))
    (tmp_path / "grammar.lark").write_text('start: "yes" | "no"\n')
    run = ["run", str(bundle), "-p", "Once", "--temp", "0", "-q"]
    assert set(
        json.loads(CliRunner().invoke(cli, [*run, "--json-schema", str(tmp_path / "schema.json")]).output)
    ) == set(ANIMAL["required"])
    assert CliRunner().invoke(cli, [*run, "--grammar", str(tmp_path / "grammar.lark")]).output in ("yes", "no")
    assert re.fullmatch("[a-f]{6}", CliRunner().invoke(cli, [*run, "--regex", "[a-f]{6}"]).output)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--regex", "((("], "the grammar is not valid"),
        (["--json-schema", "no.json"], "cannot be read"),
        (["--json-schema", "bad.json"], "not JSON"),
        (["--json-schema", "strange.json"], "not valid"),
        (["--grammar", "bad.json"], "not valid"),
        (["--regex", "a", "--grammar", "bad.json"], "Give one of"),
        (["--regex", "a", "--backend", "onnx"], "native backend"),
    ],
)
def test_wrong_grammars_are_one_line(bundle: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "bad.json").write_text("{'a'")
    (tmp_path / "strange.json").write_text('{"type": "strange"}')
    command = [sys.executable, "-m", "edgekit", "run", str(bundle), "-p", "Once", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_without_llguidance_the_message_names_the_command(bundle: Path) -> None:
    script = (
        "import sys; sys.modules['llguidance'] = None; from edgekit.cli.main import main;"
        f"sys.exit(main(['run', {str(bundle)!r}, '-p', 'Once', '--regex', 'a']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'edgekit[grammar]'" in done.stderr
