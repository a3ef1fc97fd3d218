"""The C ABI in ctypes: structs, signatures, and errors turned into exceptions. Nothing else."""

from __future__ import annotations

import ctypes as c
import os
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from edgekit.errors import BudgetError, BundleError, ContextFullError, EdgekitError, RuntimeFailure

ABI_VERSION = 2
IO_MODES = {"auto": 0, "direct": 1, "buffered": 2}
CACHE_TYPES = {"f16": 0, "f32": 1, "q8": 2, "q4": 3}
KV_POLICIES = {"full": 0, "sinks": 1}
KV_NO_SINKS = (1 << 32) - 1
ACTIVATIONS = {"auto": 0, "f32": 1, "int8": 2}
IO_ENGINES = {"auto": 0, "uring": 1, "threads": 2}
SELECTIONS = {"auto": 0, "all": 1, "exact": 2, "predicted": 3, "threshold": 4, "prompt": 5, "router": 6}
COMPUTE = {"all": 0, "feed_forward": 1, "linear": 2}
OUTPUTS = {"logits": 0, "embedding": 1, "score": 2, "image": 3}
POOLINGS = {"bundle": 0, "cls": 1, "mean": 2, "max": 3, "last": 4}
NORMALIZE = {"bundle": 0, "yes": 1, "no": 2}
WINDOW_NONE = (1 << 32) - 1
Log = c.CFUNCTYPE(None, c.c_int32, c.c_char_p, c.c_void_p)
InputsCapture = c.CFUNCTYPE(None, c.c_uint32, c.c_uint32, c.POINTER(c.c_float), c.c_uint32, c.c_uint32, c.c_void_p)
Mask = c.CFUNCTYPE(c.c_int32, c.POINTER(c.c_uint32), c.c_uint32, c.c_void_p)
Capture = c.CFUNCTYPE(None, c.c_uint32, c.POINTER(c.c_float), c.c_uint32, c.c_uint32, c.c_void_p)

_STATUS_ERRORS: dict[int, type[EdgekitError]] = {
    2: BundleError, 3: BundleError, 4: BundleError, 6: BudgetError, 9: ContextFullError,
}  # fmt: skip
CANCELLED = 7


class _Struct(c.Structure):
    """A struct that knows its size, as the ABI asks for."""

    def __init__(self, **values: object) -> None:
        super().__init__(struct_size=c.sizeof(self), **values)


class Error(c.Structure):
    _fields_ = (("status", c.c_int32), ("message", c.c_char * 508))


class Options(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("threads", c.c_uint32),
        ("budget_bytes", c.c_uint64),
        ("context", c.c_uint32),
        ("max_batch", c.c_uint32),
        ("sessions", c.c_uint32),
        ("io_mode", c.c_uint32),
        ("cache_type", c.c_uint32),
        ("io_threads", c.c_uint32),
        ("kernels", c.c_char_p),
        ("select", c.c_uint32),
        ("window_tokens", c.c_uint32),
        ("io_engine", c.c_uint32),
        ("io_depth", c.c_uint32),
        ("sparsity", c.c_float),
        ("no_lookahead", c.c_uint32),
        ("compute", c.c_uint32),
        ("draft_tokens", c.c_uint32),
        ("log", Log),
        ("log_user", c.c_void_p),
        ("activations", c.c_uint32),
        ("kv_policy", c.c_uint32),
        ("kv_window", c.c_uint32),
        ("kv_sinks", c.c_uint32),
        ("lora", c.c_char_p),
        ("least_batch", c.c_uint32),
        ("reserved", c.c_uint32),
    )


class Plan(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("context", c.c_uint32),
        ("max_batch", c.c_uint32),
        ("reserved", c.c_uint32),
        ("budget_bytes", c.c_uint64),
        ("floor_bytes", c.c_uint64),
        ("weight_bytes", c.c_uint64),
        ("resident_bytes", c.c_uint64),
        ("streamed_bytes", c.c_uint64),
        ("kv_bytes", c.c_uint64),
        ("activation_bytes", c.c_uint64),
        ("stream_buffer_bytes", c.c_uint64),
        ("window_bytes", c.c_uint64),
        ("select", c.c_uint32),
        ("reserved2", c.c_uint32),
    )


class Stats(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("io_direct", c.c_uint32),
        ("memory_bytes", c.c_uint64),
        ("peak_memory_bytes", c.c_uint64),
        ("bytes_read", c.c_uint64),
        ("prompt_tokens", c.c_uint64),
        ("generated_tokens", c.c_uint64),
        ("prompt_seconds", c.c_double),
        ("generation_seconds", c.c_double),
        ("prompt_bytes_read", c.c_uint64),
        ("generation_bytes_read", c.c_uint64),
        ("io_wait_seconds", c.c_double),
        ("neurons", c.c_uint64),
        ("selected", c.c_uint64),
        ("window_hits", c.c_uint64),
        ("window_misses", c.c_uint64),
        ("select_seconds", c.c_double),
        ("read_seconds", c.c_double),
        ("ffn_seconds", c.c_double),
        ("manage_seconds", c.c_double),
        ("read_operations", c.c_uint64),
        ("io_uring", c.c_uint32),
        ("reserved", c.c_uint32),
        ("window_unused", c.c_uint64),
        ("drafted_tokens", c.c_uint64),
        ("accepted_tokens", c.c_uint64),
    )


class Info(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("vocab_size", c.c_uint32),
        ("hidden_size", c.c_uint32),
        ("max_context", c.c_uint32),
        ("blocks", c.c_uint32),
        ("threads", c.c_uint32),
        ("kernels", c.c_char * 32),
        ("output", c.c_uint32),
        ("pooling", c.c_uint32),
        ("max_length", c.c_uint32),
        ("reserved", c.c_uint32),
        ("patch_columns", c.c_uint32),
        ("merged_patches", c.c_uint32),
        ("picture_columns", c.c_uint32),
        ("picture_positions", c.c_uint32),
    )


class Embedding(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("count", c.c_uint32),
        ("tokens", c.POINTER(c.c_int32)),
        ("types", c.POINTER(c.c_uint8)),
        ("vector", c.POINTER(c.c_float)),
        ("states", c.POINTER(c.c_float)),
        ("pooling", c.c_uint32),
        ("normalize", c.c_uint32),
        ("score", c.c_float),
        ("reserved", c.c_uint32),
    )


class Input(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("count", c.c_uint32),
        ("tokens", c.POINTER(c.c_int32)),
        ("rows", c.c_void_p),
        ("columns", c.c_uint32),
        ("both_ways", c.c_uint32),
    )


class Patches(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("count", c.c_uint32),
        ("values", c.c_void_p),
        ("positions", c.c_void_p),
        ("out", c.c_void_p),
        ("columns", c.c_uint32),
        ("rows", c.c_uint32),
        ("out_columns", c.c_uint32),
        ("added_columns", c.c_uint32),
        ("added", c.c_void_p),
    )


class Sampling(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("temperature", c.c_float),
        ("top_k", c.c_uint32),
        ("top_p", c.c_float),
        ("min_p", c.c_float),
        ("repeat_penalty", c.c_float),
        ("repeat_last_n", c.c_uint32),
        ("reserved", c.c_uint32),
        ("seed", c.c_uint64),
        ("presence_penalty", c.c_float),
        ("frequency_penalty", c.c_float),
        ("penalty_begin", c.c_uint32),
        ("bias_count", c.c_uint32),
        ("bias_tokens", c.POINTER(c.c_int32)),
        ("bias_values", c.POINTER(c.c_float)),
        ("mask", c.POINTER(c.c_uint32)),
        ("mask_words", c.c_uint32),
        ("reserved2", c.c_uint32),
    )


class ReadTest(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("io_mode", c.c_uint32),
        ("io_engine", c.c_uint32),
        ("depth", c.c_uint32),
        ("threads", c.c_uint32),
        ("sequential", c.c_uint32),
        ("once", c.c_uint32),
        ("direct", c.c_uint32),
        ("uring", c.c_uint32),
        ("chunk_bytes", c.c_uint64),
        ("seed", c.c_uint64),
        ("seconds", c.c_double),
        ("elapsed", c.c_double),
        ("reads", c.c_uint64),
        ("bytes", c.c_uint64),
    )


class KernelTest(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("bits", c.c_uint32),
        ("cols", c.c_uint32),
        ("threads", c.c_uint32),
        ("codec", c.c_char_p),
        ("seconds", c.c_double),
        ("elapsed", c.c_double),
        ("bytes", c.c_uint64),
        ("down", c.c_uint32),
        ("activations", c.c_uint32),
    )


class Trellis(_Struct):
    _fields_ = (
        ("struct_size", c.c_uint32),
        ("rows", c.c_uint32),
        ("cols", c.c_uint32),
        ("bits", c.c_uint32),
        ("state_bits", c.c_uint32),
        ("begin", c.c_uint32),
        ("history", c.c_uint32),
        ("free_ends", c.c_uint32),
        ("keep_better", c.c_uint32),
        ("rows_at_once", c.c_uint32),
        ("threads", c.c_uint32),
        ("scale_step_count", c.c_uint32),
        ("scale_steps", c.c_void_p),
        ("weights", c.c_void_p),
        ("feedback", c.c_void_p),
        ("pivots", c.c_void_p),
        ("row_feedback", c.c_void_p),
        ("errors", c.c_void_p),
        ("codes", c.c_void_p),
        ("scales", c.c_void_p),
        ("cost", c.c_double),
    )


STRUCTS: tuple[type[c.Structure], ...] = (
    Error, Options, Plan, Stats, Info, Embedding, Input, Patches, Sampling, ReadTest, KernelTest, Trellis,
)  # fmt: skip


def library_path(stem: str = "libedgekit") -> Path:
    """Where a shared library is: that of EDGEKIT_LIBRARY or beside it, or installed with the package.

    Raises:
        RuntimeFailure: neither exists.
    """
    name = stem + (".dylib" if sys.platform == "darwin" else ".so")
    override = os.environ.get("EDGEKIT_LIBRARY")
    if override:
        return Path(override).with_name(name)
    beside = Path(__file__).parents[1] / "_native" / name
    if beside.exists():
        return beside
    try:
        files = metadata.files("edgekit") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:  # an editable install, or a source tree in front of the installed one
        if file.name == name:
            return Path(str(file.locate()))
    raise RuntimeFailure(f"{name} is not installed; run 'pip install .' in edgekit's folder, which builds it")


@cache
def library() -> c.CDLL:
    """The loaded library, its signatures declared.

    Raises:
        RuntimeFailure: missing, or of another ABI version.
    """
    path = library_path()
    try:
        lib = c.CDLL(str(path))
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot be loaded: {error}") from error
    lib.edgekit_abi_version.restype = c.c_uint32
    found = lib.edgekit_abi_version()  # first: another version may lack functions
    if found != ABI_VERSION:
        raise RuntimeFailure(f"{path}: has ABI version {found}, this package needs {ABI_VERSION}; install again")
    handle, ids = c.c_void_p, c.POINTER(c.c_int32)
    error_p, status = c.POINTER(Error), c.c_int32
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "abi_version": (c.c_uint32, ()),
        "version": (c.c_char_p, ()),
        "features": (c.c_char_p, ()),
        "kernel_sets": (c.c_char_p, ()),
        "codecs": (c.c_char_p, ()),
        "default_options": (status, (c.POINTER(Options), error_p)),
        "default_sampling": (status, (c.POINTER(Sampling), error_p)),
        "plan_bundle": (status, (c.c_char_p, c.POINTER(Options), c.POINTER(Plan), error_p)),
        "model_open": (status, (c.c_char_p, c.POINTER(Options), c.POINTER(handle), error_p)),
        "model_close": (None, (handle,)),
        "model_info": (status, (handle, c.POINTER(Info), error_p)),
        "model_plan": (status, (handle, c.POINTER(Plan), error_p)),
        "model_set_budget": (status, (handle, c.c_uint64, error_p)),
        "model_save_warm": (status, (handle, c.c_char_p, error_p)),
        "model_load_warm": (status, (handle, c.c_char_p, error_p)),
        "verify_bundle": (status, (c.c_char_p, error_p)),
        "measure_reads": (status, (c.c_char_p, c.POINTER(ReadTest), error_p)),
        "measure_kernel": (status, (c.POINTER(KernelTest), error_p)),
        "trellis_encode": (status, (c.POINTER(Trellis), error_p)),
        "session_create": (status, (handle, c.POINTER(handle), error_p)),
        "session_destroy": (None, (handle,)),
        "session_reset": (None, (handle,)),
        "session_position": (c.c_uint32, (handle,)),
        "session_stats": (status, (handle, c.POINTER(Stats), error_p)),
        "session_cancel": (None, (handle,)),
        "session_capture": (None, (handle, Capture, c.c_void_p)),
        "session_capture_inputs": (None, (handle, InputsCapture, c.c_void_p)),
        "session_eval": (status, (handle, ids, c.c_uint32, c.c_uint32, c.c_void_p, error_p)),
        "session_eval_embeddings": (status, (handle, c.POINTER(Input), c.c_uint32, c.c_void_p, error_p)),
        "session_embed": (status, (handle, c.POINTER(Embedding), c.c_uint32, error_p)),
        "session_encode": (status, (handle, c.POINTER(Patches), error_p)),
        "session_next": (status, (handle, c.POINTER(Sampling), ids, error_p)),
        "session_set_draft": (status, (handle, handle, error_p)),
        "session_advance": (status, (handle, error_p)),
        "sessions_advance": (status, (c.POINTER(handle), c.c_uint32, error_p, error_p)),
        "session_set_mask": (None, (handle, Mask, c.c_void_p)),
        "session_logprobs": (status, (handle, c.POINTER(c.c_float), ids, c.POINTER(c.c_float), c.c_uint32, error_p)),
        "session_save": (status, (handle, c.c_char_p, error_p)),
        "session_restore": (status, (handle, c.c_char_p, error_p)),
        "saved_tokens": (status, (c.c_char_p, ids, c.c_uint32, c.POINTER(c.c_uint32), error_p)),
        "session_rewind": (status, (handle, c.c_uint32, error_p)),
        "session_copy": (status, (handle, handle, c.c_uint32, error_p)),
        "session_tokens": (c.c_uint32, (handle, ids, c.c_uint32)),
        "session_feed_forward": (status, (handle, c.c_uint32, c.c_void_p, c.c_uint32, c.c_void_p, error_p)),
        "session_linear": (
            status,
            (handle, c.c_uint32, c.c_void_p, c.c_uint32, c.c_uint32, c.c_void_p, c.c_uint32, error_p),
        ),
        "sample": (
            status,
            (c.c_void_p, c.c_uint32, c.POINTER(Sampling), ids, c.c_uint32, c.POINTER(c.c_uint64), ids, error_p),
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, f"edgekit_{name}", None)
        if function is None:
            raise RuntimeFailure(f"{path}: is older than this package and lacks edgekit_{name}; install again")
        function.restype, function.argtypes = result, arguments
    return lib


def check(status: int, error: Error) -> None:
    """Raises the exception that a status stands for.

    Raises:
        EdgekitError: BundleError, BudgetError or RuntimeFailure with the runtime's message.
    """
    if status != 0:
        raise error_from(status, error)


def error_from(status: int, error: Error) -> EdgekitError:
    """The exception that a status stands for, with the runtime's message."""
    message = error.message.decode(errors="replace") or f"the runtime failed with status {status}"
    return _STATUS_ERRORS.get(status, RuntimeFailure)(message)


def call(name: str, *arguments: object) -> None:
    """Calls the function edgekit_NAME, whose last parameter is an edgekit_error.

    Raises:
        EdgekitError: as `check`.
    """
    error = Error()
    check(getattr(library(), f"edgekit_{name}")(*arguments, c.byref(error)), error)
