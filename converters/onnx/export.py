"""A bundle as an ONNX graph with external data, and as a folder for onnxruntime-genai."""

from __future__ import annotations

import json
import shutil

import onnx_ir as ir

from edgekit.converters.base import Job
from edgekit.converters.lower import lower, mixers
from edgekit.converters.onnx.data import DataFile
from edgekit.converters.onnx.emitter import EDGEKIT, OnnxEmitter, head_width
from edgekit.converters.onnx.encoder import OnnxEncoder, write_encoder
from edgekit.converters.onnx.tokenizer import write_tokenizer_config
from edgekit.converters.onnx.weights import MS
from edgekit.converters.rope import reach
from edgekit.converters.weights import Json
from edgekit.runtime.native import library_path
from edgekit.version import __version__

OPSETS = {"": 23, MS: 1, EDGEKIT: 1}
IR_VERSION = 11
LIBRARIES = ("libedgekit_onnx", "libedgekit")  # the operator, and the runtime that it loads from beside it
GRAPH, DATA = "model.onnx", "model.onnx.data"


def export(job: Job) -> None:
    """Writes model.onnx, its data, genai_config.json and the tokenizer.

    Raises:
        ConvertError: the graph cannot express the model.
    """
    model = job.weights.model
    context = reach(model, job.choices.context)
    flash = job.kind == "onnx-flash"
    if model.get("output", "logits") != "logits":
        with DataFile(job.folder, DATA) as data:
            encoder = OnnxEncoder(job.weights, data, job.choices, context, exact=job.kind == "onnx-exact")
            _save(job, encoder, write_encoder(encoder), context)
        job.copy_tokenizer()
        return
    with DataFile(job.folder, DATA) as data:
        e = OnnxEmitter(job.weights, data, job.choices, context, exact=flash or job.kind == "onnx-exact", flash=flash)
        logits = lower(model, e, e.ids)
        logits.name = "logits"
        logits.shape = ir.Shape(("batch", "tokens", model["vocab_size"]))
        logits.type = ir.TensorType(ir.DataType.FLOAT)
    _save(job, e, [logits, *e.presents], context)
    job.copy_tokenizer()
    job.about["tokenizer_options"] = write_tokenizer_config(job.folder)
    if any(b["kind"] != "attention" for b in mixers(model["blocks"])):
        return  # onnxruntime-genai has no place for the caches of such models
    config = _genai(model, context)
    if flash:  # onnxruntime-genai loads custom operators from the model's folder only
        for stem in LIBRARIES:
            shutil.copyfile(library_path(stem), job.folder / library_path(stem).name)
        options = config["model"]["decoder"]["session_options"]
        options["custom_ops_library"] = library_path(LIBRARIES[0]).name
    (job.folder / "genai_config.json").write_text(json.dumps(config, indent=1))


def _save(job: Job, e: OnnxEmitter, outputs: list[ir.Value], context: int) -> None:
    """Writes model.onnx, and what there is to say of it."""
    graph = ir.Graph(
        e.inputs,
        outputs,
        nodes=e.tape.nodes,
        initializers=e.tape.initializers,
        opset_imports=OPSETS,
        name=job.weights.model["model_type"],
    )
    made = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgekit", producer_version=__version__)
    ir.save(made, job.folder / GRAPH)
    job.about["context"] = context
    if e.accuracy_level == 4 and any(node.op_type == "MatMulNBits" for node in e.tape.nodes):
        job.about["precision"] = "int8"  # of activations, within those products


def _genai(model: Json, context: int) -> Json:
    """The configuration that onnxruntime-genai reads; "llama" stands for any plain decoder there."""
    attention = [b for b in model["blocks"] if b["kind"] == "attention"]
    first = attention[0]
    eos = list(model["eos_token_ids"]) or [0]
    return {
        "model": {
            "type": "llama",
            "vocab_size": model["vocab_size"],
            "context_length": context,
            "bos_token_id": model.get("bos_token_id", eos[0]),
            "eos_token_id": eos if len(eos) > 1 else eos[0],
            "pad_token_id": eos[0],
            "decoder": {
                "session_options": {"log_id": "edgekit", "provider_options": []},
                "filename": GRAPH,
                "head_size": head_width(first["head_dim"]),
                "hidden_size": model["hidden_size"],
                "num_attention_heads": first["heads"],
                "num_key_value_heads": first["kv_heads"],
                "num_hidden_layers": len(attention),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": context,
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": False,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }
