"""onnxruntime."""

from __future__ import annotations

import ctypes as c
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgekit.codecs.base import F32
from edgekit.converters.base import Artifact
from edgekit.converters.engines import Engine, one_line
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.runtime import native
from edgekit.runtime.values import Options, Plan, Stats, plan_from, stats_from
from edgekit.sizes import parse_bytes


class OnnxEngine(Engine):
    """onnxruntime, on the CPU; with `onnx-flash` the custom operator reads from the bundle."""

    def __init__(self, artifact: Artifact, model: Json, bundle: Path, options: Options) -> None:
        super().__init__(artifact, model)
        given = ort.SessionOptions()
        given.log_severity_level = 4  # errors come as exceptions
        given.intra_op_num_threads = options.threads
        self.id = secrets.token_hex(8)  # names the operators of this session
        if artifact.kind == "onnx-flash":
            entries = {
                "bundle": str(bundle),
                "ram": "" if options.ram is None else str(parse_bytes(options.ram)),
                "threads": str(options.threads),
                "select": str(native.SELECTIONS[options.select]),
                "activations": str(native.ACTIVATIONS[options.activations]),
                "id": self.id,
            }
            for name, value in entries.items():
                given.add_session_config_entry(f"ai.edgekit.{name}", value)
            # Its threads would spin on the cores that the operator computes with.
            given.add_session_config_entry("session.intra_op.allow_spinning", "0")
            given.register_custom_ops_library(str(native.library_path("libedgekit_onnx")))
        try:
            path = str(artifact.path / "model.onnx")
            self.session = ort.InferenceSession(path, given, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base
            raise ConvertError(f"{artifact.path}: onnxruntime cannot open it: {one_line(error)}") from error
        self.flash = artifact.kind == "onnx-flash"
        self.names = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        given = [i for i in self.session.get_inputs() if i.name.startswith("past_")]
        shapes = {
            i.name: [n if isinstance(n, int) else 0 for n in i.shape[1:]] for i in given
        }  # 0: grows with the text
        self.cache: dict[str, Any] = {name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
        self.position = 0

    def __call__(self, tokens: Sequence[int]) -> F32:
        """Of encoders the hidden states f32 [tokens, hidden_size] of a whole text."""
        self.position += len(tokens)
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self.position), np.int64),
            **self.cache,
        }
        if any(i.name == "token_type_ids" for i in self.session.get_inputs()):
            feeds["token_type_ids"] = np.zeros((1, len(tokens)), np.int64)
        try:
            logits, *present = self.session.run(None, feeds)
        except Exception as error:
            raise ConvertError(f"{self.artifact.path}: onnxruntime failed: {one_line(error)}") from error
        if self.names[0] == "last_hidden_state":
            self.position, present = 0, []
        names = (n.replace("present_", "past_").replace("present.", "past_key_values.") for n in self.names[1:])
        self.cache = dict(zip(names, present, strict=bool(present)))
        out: F32 = logits[0]
        return out

    def counters(self) -> tuple[Stats, Plan] | None:
        if not self.flash:
            return None
        function = c.CDLL(str(native.library_path("libedgekit_onnx"))).edgekit_onnx_stats
        function.argtypes = (c.c_char_p, c.POINTER(native.Stats), c.POINTER(native.Plan))
        stats, plan = native.Stats(), native.Plan()
        if function(self.id.encode(), c.byref(stats), c.byref(plan)) != 0:
            return None
        return stats_from(stats), plan_from(plan)
