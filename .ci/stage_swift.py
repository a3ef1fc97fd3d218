"""What the tests of the Swift package compare with: bundles, and what Python makes of them. `stage_swift.py FOLDER`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import edgekit
from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.generate.chat_form import chat_form, plain_form, written
from edgekit.generate.chat_template import render
from edgekit.generate.dialogue import plain_text
from edgekit.runtime.values import Sampling
from tests import encoders
from tests import test_chat_form as chats

DEMO = Path("examples/demo_model/checkpoint")
TEMPLATES = {n: getattr(chats, n) for n in ("CHATML", "REASONING", "LLAMA2", "LLAMA3", "GEMMA", "LAST_USER")}
THOUGHT = [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nyes"), ("user", "b")]


def forms() -> list[dict[str, object]]:
    """Forms as bundles have them, with conversations and the prompts that the templates make of them."""
    model, out = describe_checkpoint(open_checkpoint(DEMO))[0], []
    for name, template in [*TEMPLATES.items(), ("none", None)]:
        form = plain_form() if template is None else chat_form(template, chats.TOKENS)
        cases = []
        for turns in (chats.TURNS[:1], chats.TURNS, [chats.SYSTEM, *chats.TURNS], THOUGHT):
            if turns[0][0] == "system" and name == "LAST_USER":
                continue
            messages = [{"role": r, "content": c} for r, c in turns]
            text = plain_text(messages) if template is None else render(template, messages, None, chats.TOKENS)
            cases.append({"messages": messages, "prompt": text})
        out.append({"name": name, "form": json.loads(written(form, model)), "cases": cases})
    return out


def pieces(model: edgekit.Model) -> list[str]:
    """What each token adds to a text; special ones nothing."""
    first = model.tokenizer.encode("a", special=False)[-1:]
    before = len(model.tokenizer.decode(first))
    count = model.manifest["model"]["vocab_size"]
    return [model.tokenizer.decode([*first, token])[before:] for token in range(count)]


def main(stage: Path) -> None:
    convert(DEMO, stage / "demo", "palette4")
    shutil.copytree(DEMO, stage / "checkpoint")
    (stage / "checkpoint" / "chat_template.jinja").write_text(chats.CHATML)
    convert(stage / "checkpoint", stage / "chat", "palette4")
    encoders.make("bert", stage / "encoder")
    encoders.add_tokenizer(stage / "encoder")
    encoders.add_modules(stage / "encoder", length=16)
    convert(stage / "encoder", stage / "embedder", "f32")
    (stage / "forms.json").write_text(json.dumps(forms()))
    with edgekit.load(stage / "embedder.edgekit") as model:
        texts = ["the cat sat on the mat", "a fast dog"]
        vectors = [{"tokens": model.tokenizer.encode(t), "vector": model.embed(t)[0].tolist()} for t in texts]
    (stage / "vectors.json").write_text(json.dumps(vectors))
    with edgekit.load(stage / "demo.edgekit") as model:
        (stage / "pieces.json").write_text(json.dumps(pieces(model)))
        ids = model.tokenizer.encode("Once upon a time")
        golden = [p.token for p in model.generate(ids, 40, Sampling(temperature=0), ignore_eos=True) if p.token >= 0]
        sampled = [
            p.token for p in model.generate(ids, 40, replace(Sampling(), seed=7), ignore_eos=True) if p.token >= 0
        ]
    lines = {
        "STAGE": "/stage",
        "BUNDLE": "/stage/demo.edgekit",
        "PROMPT": " ".join(map(str, ids)),
        "GOLDEN": " ".join(map(str, golden)),
        "SAMPLED": " ".join(map(str, sampled)),
    }
    (stage / "env").write_text("".join(f"export EDGEKIT_TEST_{k}='{v}'\n" for k, v in lines.items()))


main(Path(sys.argv[1]))
