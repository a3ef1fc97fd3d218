"""Structs of any age cross the C ABI; what Python declares of them is what the header says."""

from __future__ import annotations

import contextlib
import ctypes as c
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgekit.codecs import make_codec
from edgekit.codecs.base import _MAKERS
from edgekit.conversion import convert
from edgekit.errors import RecipeError
from edgekit.runtime import native
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

HEADER = ROOT / "runtime" / "include" / "edgekit" / "edgekit.h"
STRUCTS = {
    "error": native.Error,
    "options": native.Options,
    "plan": native.Plan,
    "stats": native.Stats,
    "info": native.Info,
    "embedding": native.Embedding,
    "input": native.Input,
    "patches": native.Patches,
    "sampling": native.Sampling,
    "read_test": native.ReadTest,
    "kernel_test": native.KernelTest,
    "trellis": native.Trellis,
}
ENUMS = {
    "EDGEKIT_IO_": native.IO_MODES,
    "EDGEKIT_CACHE_": native.CACHE_TYPES,
    "EDGEKIT_IO_ENGINE_": native.IO_ENGINES,
    "EDGEKIT_SELECT_": native.SELECTIONS,
    "EDGEKIT_COMPUTE_": native.COMPUTE,
    "EDGEKIT_ACTIVATIONS_": native.ACTIVATIONS,
    "EDGEKIT_OUTPUT_": native.OUTPUTS,
    "EDGEKIT_POOLING_": native.POOLINGS,
    "EDGEKIT_NORMALIZE_": native.NORMALIZE,
}
INVALID, UNSUPPORTED = 1, 4


def constants() -> list[str]:
    """Names of all enumerators of the header."""
    return [
        n for body in re.findall(r"enum \{(.*?)\};", HEADER.read_text(), re.S) for n in re.findall(r"(\w+) =", body)
    ]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a C compiler makes of the header: sizes, offsets and values."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("layout")
    lines = [
        "#include <stdio.h>",
        '#include "edgekit/edgekit.h"',
        "int main(void) {",
        'printf("{\\"version\\": %d,", EDGEKIT_ABI_VERSION);',
    ]
    for name, struct in STRUCTS.items():
        lines.append(f'printf("\\"{name}\\": {{\\"size\\": %zu", sizeof(edgekit_{name}));')
        for field, *_ in struct._fields_:
            sizes = f"offsetof(edgekit_{name}, {field}), sizeof(((edgekit_{name}*)0)->{field})"
            lines.append(f'printf(", \\"{field}\\": [%zu, %zu]", {sizes});')
        lines.append('printf("},");')
    for name in (*constants(), "EDGEKIT_WINDOW_NONE"):
        lines.append(f'printf("\\"{name}\\": %lld,", (long long){name});')
    lines.append('printf("\\"end\\": 0}"); return 0; }')
    (folder / "layout.c").write_text("\n".join(lines))
    command = [compiler, "-std=c11", "-pedantic", "-Werror", "-I", str(HEADER.parents[1]), str(folder / "layout.c")]
    done = subprocess.run([*command, "-o", str(folder / "layout")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(subprocess.run([folder / "layout"], capture_output=True, text=True).stdout)
    return found


def test_python_declares_the_structs_of_the_header(header: dict[str, Any]) -> None:
    assert header["version"] == native.ABI_VERSION == native.library().edgekit_abi_version()
    text = HEADER.read_text()
    declared = set(re.findall(r"^typedef struct edgekit_(\w+) \{", text, re.M))
    assert declared == set(STRUCTS)
    for name, struct in STRUCTS.items():
        assert c.sizeof(struct) == header[name]["size"], name
        body = text.split(f"struct edgekit_{name} {{")[1].split("\n}")[0]
        body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
        assert [f[0] for f in struct._fields_] == re.findall(r"(\w+)(?:\[\d+\])?\s*[;,]", body), name
        for field, *_ in struct._fields_:
            known = getattr(struct, field)
            assert [known.offset, known.size] == header[name][field], (name, field)


def test_python_has_the_values_of_the_header(header: dict[str, Any]) -> None:
    names = constants()
    for prefix, values in ENUMS.items():
        longer = [p for p in ENUMS if p.startswith(prefix) and p != prefix]
        mine = [n for n in names if n.startswith(prefix) and not any(n.startswith(p) for p in longer)]
        want = {n.removeprefix(prefix).lower(): header[n] for n in mine}
        if prefix == "EDGEKIT_IO_":
            want.pop("", None)
        assert values == want, prefix
    assert header["EDGEKIT_WINDOW_NONE"] == native.WINDOW_NONE
    assert header["EDGEKIT_CANCELLED"] == native.CANCELLED


def test_python_has_the_defaults_of_the_library() -> None:
    sampling, options = native.Sampling(), native.Options()
    native.call("default_sampling", c.byref(sampling))
    assert bytes(sampling) == bytes(Sampling().native())
    native.call("default_options", c.byref(options))
    assert options.sessions == Options().sessions
    assert options.threads >= 1
    assert (options.io_threads, options.io_depth) > (0, 0)
    assert 0 < options.sparsity < 1


def test_python_has_the_codecs_of_the_library() -> None:
    listed = {tuple(n.split(":")) for n in native.library().edgekit_codecs().decode().split(",")}
    made = set()
    for name in _MAKERS:
        for bits in (None, *range(1, 33)):
            with contextlib.suppress(RecipeError):
                made.add((name, str(make_codec(name, bits).bits)))
    assert listed == made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abi")
    tiny.make("llama", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "q8").path


def sized(struct: c.Structure, size: int, tail: int = 0) -> c.Array[c.c_char]:
    """The struct as a caller has it whose struct is of another size; `tail` fills what it has more."""
    out = c.create_string_buffer(bytes(struct)[:size].ljust(size, bytes([tail])), size + 64)
    c.memset(c.addressof(out) + size, 0xA5, 64)  # a guard
    c.c_uint32.from_buffer(out).value = size
    return out


def raw(name: str, *arguments: object) -> tuple[int, str]:
    """Status and message of a function, whatever its declared types."""
    address = c.cast(getattr(native.library(), f"edgekit_{name}"), c.c_void_p).value
    error = native.Error()
    function = c.CFUNCTYPE(c.c_int32, *(c.c_void_p,) * (len(arguments) + 1))(address)
    status = function(*(c.addressof(a) if isinstance(a, c.Array) else a for a in arguments), c.addressof(error))
    return status, error.message.decode()


def guard(buffer: c.Array[c.c_char], size: int) -> bytes:
    return buffer.raw[size : size + 64]


def test_older_and_newer_callers_of_options_and_plan(bundle: Path) -> None:
    options, path = Options(context=64, threads=1).native(), c.create_string_buffer(str(bundle).encode())
    whole = c.sizeof(native.Plan)
    want = sized(native.Plan(), whole)
    assert raw("plan_bundle", path, sized(options, c.sizeof(options)), want) == (0, "")
    for old in range(24, c.sizeof(options) + 200, 8):
        for size in (8, 16, 24, 48, whole, whole + 8, whole + 160):
            plan = sized(native.Plan(), size, 0xFF)
            assert raw("plan_bundle", path, sized(options, old), plan) == (0, "")
            assert plan.raw[4 : min(size, whole)] == want.raw[4 : min(size, whole)]
            assert plan.raw[whole:size] == bytes(max(0, size - whole))
            assert c.c_uint32.from_buffer(plan).value == size
            assert guard(plan, size) == b"\xa5" * 64


def test_a_newer_callers_unknown_option_is_refused(bundle: Path) -> None:
    path, plan = c.create_string_buffer(str(bundle).encode()), sized(native.Plan(), c.sizeof(native.Plan))
    options = Options(context=64).native()
    status, message = raw("plan_bundle", path, sized(options, c.sizeof(options) + 8, 1), plan)
    assert status == UNSUPPORTED
    assert "does not know" in message
    for size in (0, 4, 20, c.sizeof(options) + 4, 1 << 20):
        bad = sized(options, max(size, 4) if size < 4096 else c.sizeof(options))
        c.c_uint32.from_buffer(bad).value = size
        status, message = raw("plan_bundle", path, bad, plan)
        assert status == INVALID
        assert "set it to sizeof(edgekit_options)" in message


def test_older_and_newer_callers_of_the_other_structs(bundle: Path) -> None:
    path, model, session = c.create_string_buffer(str(bundle).encode()), c.c_void_p(), c.c_void_p()
    options = Options(context=64, threads=1).native()
    assert raw("model_open", path, sized(options, c.sizeof(options)), c.addressof(model)) == (0, "")
    assert raw("session_create", model, c.addressof(session)) == (0, "")
    lib = native.library()
    try:
        for name, handle, struct in (
            ("model_info", model, native.Info),
            ("model_plan", model, native.Plan),
            ("session_stats", session, native.Stats),
        ):
            whole = c.sizeof(struct)
            want = sized(struct(), whole)
            assert raw(name, handle, want) == (0, "")
            for size in (8, 16, 40, whole - 8, whole, whole + 8, whole + 64):
                out = sized(struct(), size, 0xFF)
                assert raw(name, handle, out) == (0, "")
                assert out.raw[4 : min(size, whole)] == want.raw[4 : min(size, whole)]
                assert out.raw[whole:size] == bytes(max(0, size - whole))
                assert guard(out, size) == b"\xa5" * 64
            assert raw(name, handle, sized(struct(), 12))[0] == INVALID
        lib.edgekit_session_eval(session, (c.c_int32 * 2)(3, 4), 2, 0, None, None)
        token, sampling = c.c_int32(), Sampling(temperature=0).native()
        for size in (8, 16, c.sizeof(sampling), c.sizeof(sampling) + 8):
            assert raw("session_next", session, sized(sampling, size), c.addressof(token)) == (0, "")
        assert (
            raw("session_next", session, sized(sampling, c.sizeof(sampling) + 8, 1), c.addressof(token))[0]
            == UNSUPPORTED
        )
    finally:
        lib.edgekit_session_destroy(session)
        lib.edgekit_model_close(model)


def test_older_and_newer_callers_of_measurements(tmp_path: Path) -> None:
    test = native.KernelTest(bits=4, cols=256, threads=1, codec=b"affine", seconds=0.001)
    whole = c.sizeof(test)
    for size in (48, whole, whole + 8):
        out = sized(test, size)
        assert raw("measure_kernel", out) == (0, "")
        assert guard(out, size) == b"\xa5" * 64
        assert native.KernelTest.from_buffer_copy(out.raw[:size].ljust(whole, b"\0")).bytes > 0 or size < 56
    assert raw("measure_kernel", sized(test, whole + 8, 1))[0] == UNSUPPORTED
