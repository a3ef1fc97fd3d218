"""Files that other people's libraries read for edgekit, changed at random.

A library may bring the process down, so each round runs in a process of its own, with a limit on its memory.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import DEMO, ROOT
from tests.fuzz.mutations import answers, changed_bytes, changed_json

ROUNDS = int(os.environ.get("EDGEKIT_FUZZ_ROUNDS", "300"))
SEED = os.environ.get("EDGEKIT_FUZZ_SEED", "0")
MOST = 64 << 20  # bytes that Python may allocate for one file
ADDRESS_SPACE = 8 << 30  # bytes of the whole process, its libraries included
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ bos_token }}"


def tokenizers(folder: Path) -> tuple[Callable[[bytes], Any], Callable[[random.Random], bytes]]:
    """tokenizer_config.json and special_tokens_map.json, by turns."""
    from edgekit.generate.tokenizer import Tokenizer

    shutil.copyfile(DEMO / "tokenizer.json", folder / "tokenizer.json")
    token = {"content": "<s>", "lstrip": False, "special": True}
    config = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": token, "eos_token": "</s>", "add_bos_token": True,
        "added_tokens_decoder": {"1": token}, "chat_template": TEMPLATE, "model_max_length": 10**30,
    }  # fmt: skip
    named = config | {
        "chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "x", "template": "{{ 1 }}"}]
    }
    old = {"bos_token": token, "eos_token": "</s>", "pad_token": None}

    def change(rng: random.Random) -> bytes:
        first = changed_json(rng.choice([config, named]), rng)
        return first + b"\0\0split\0\0" + changed_json(old, rng)

    def parse(data: bytes) -> None:
        first, _, second = data.partition(b"\0\0split\0\0")
        (folder / "tokenizer_config.json").write_bytes(first)
        (folder / "special_tokens_map.json").write_bytes(second)
        made = Tokenizer(folder)
        assert made.encode("Once upon a time")
        assert all(isinstance(v, str) for v in made.special_tokens.values())
        if made.has_chat_template:
            made.chat([{"role": "user", "content": "x"}])

    return parse, change


def vocabularies(folder: Path) -> tuple[Callable[[bytes], Any], Callable[[random.Random], bytes]]:
    """tokenizer.json, which the tokenizers library reads."""
    from edgekit.generate.tokenizer import Stream, Tokenizer

    whole = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    small = whole | {"model": {**whole["model"], "vocab": dict(list(whole["model"]["vocab"].items())[:300])}}
    if "merges" in small["model"]:
        known = small["model"]["vocab"].keys()
        pairs = (m.split(" ") if isinstance(m, str) else m for m in whole["model"]["merges"])
        small["model"]["merges"] = [[a, b] for a, b in pairs if {a, b, a + b} <= known][:40]

    def change(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return changed_json(small, rng)  # mostly its vocabulary
        text = changed_json({k: v for k, v in small.items() if k != "model"}, rng)
        return text.rstrip(b"} \n") + b', "model": ' + json.dumps(small["model"]).encode() + b"}"

    def parse(data: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(data)
        made = Tokenizer(folder)
        ids = made.encode("Once upon a time, \u00e9\u20ac\U0001f600")
        made.decode(ids)
        stream = Stream(made, ids[:3])
        for token in [*ids, 0, 5, 1 << 20]:
            stream.push(token)

    return parse, change


def graphs(folder: Path) -> tuple[Callable[[bytes], Any], Callable[[random.Random], bytes]]:
    """A small ONNX graph with a convolution, a product and a branch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgekit.converters.graphs.convert import compress, scheme_from

    rng = np.random.default_rng(0)
    tensors = {"w": (16, 4, 3, 3), "b": (64, 16)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in tensors.items()]
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [*weights, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    whole = model.SerializeToString()
    bulk = [(whole.index(w.raw_data), len(w.raw_data)) for w in weights]
    places = [i for i in range(len(whole)) if not any(a <= i < a + n for a, n in bulk)]  # structure, not weights

    def change(random_values: random.Random) -> bytes:
        out = bytearray(whole)
        if random_values.random() < 0.3:
            return changed_bytes(whole, random_values)
        for _ in range(random_values.randint(1, 3)):
            at = random_values.choice(places)
            out[at] = random_values.choice([out[at] ^ 1 << random_values.randrange(8), 0, 1, 0x7F, 0x80, 0xFF])
        return bytes(out)

    def parse(data: bytes) -> None:
        (folder / "in.onnx").write_bytes(data)
        compress(folder / "in.onnx", folder / "out.onnx", scheme_from("q8", None, None, None), overwrite=True)

    assert onnx.load_from_string(whole)
    return parse, change


KINDS = {"tokenizers": tokenizers, "vocabularies": vocabularies, "graphs": graphs}


def main(kind: str, folder: str, rounds: int) -> None:
    """The rounds of one process; the input at hand lies in FOLDER/input, for whoever looks at a crash."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    parse, change = KINDS[kind](Path(folder))
    rng = random.Random(f"{kind} {SEED}")
    answered = 0
    for _ in range(rounds):
        data = change(rng)
        (Path(folder) / "input").write_bytes(data)
        answered += answers(lambda data=data: parse(data), data[:2000], MOST)
    print(f"{answered} of {rounds}")


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_of_libraries_are_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "graphs":
        pytest.importorskip("onnx_ir")
        pytest.importorskip("onnxruntime")
    command = [sys.executable, "-m", "tests.fuzz.test_libraries", kind, str(tmp_path), str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + 2 * ROUNDS)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    answered, rounds = map(int, done.stdout.split()[-3::2])
    assert 0 < answered < rounds == ROUNDS


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
