"""A GGUF file as a checkpoint: its tensors under the names of transformers, read as the f32 values that they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.gguf_config import FACTORS, LONG, SHORT, architecture, config_of
from edgekit.checkpoint.gguf_file import Entry, GgufFile
from edgekit.checkpoint.gguf_kept import KEPT
from edgekit.checkpoint.gguf_linear import STEMS, linear_tensors, stacked_gate_up
from edgekit.checkpoint.gguf_names import EXPERTS, Architecture
from edgekit.checkpoint.gguf_parts import joined, read_parts
from edgekit.checkpoint.gguf_tokenizer import tokenizer_of
from edgekit.checkpoint.gguf_types import KINDS, Kind
from edgekit.checkpoint.mxfp4 import BLOCKS
from edgekit.checkpoint.safetensors import DTYPES, Tensor
from edgekit.checkpoint.views import interleaved, rotated, shifted
from edgekit.codecs import Codec
from edgekit.errors import CheckpointError

SUFFIX = ".gguf"
LAYER_NAME = re.compile(r"blk\.(\d{1,6})\.(.+)\.(weight|bias)")
BARE_NAME = re.compile(r"blk\.(\d{1,6})\.(ssm_a)()")
GATE_UP = "ffn_gate_up_exps"
SKIPPED = (FACTORS, SHORT, LONG)  # what the config tells already


@dataclass(frozen=True)
class BlockTensor(Tensor):
    """A tensor in blocks, of dtype F32 for those that read it; `kind` is what the file holds."""

    kind: Kind = KINDS[0]

    @property
    def _row_bytes(self) -> int:
        return self.shape[-1] // self.kind.values * self.kind.bytes

    def item(self, index: int) -> BlockTensor:
        """One of the tensors that this one stacks along its first axis."""
        at = self.offset + index * self.row_items // self.kind.values * self.kind.bytes
        return replace(self, shape=self.shape[1:], offset=at)

    @property
    def stored_as(self) -> str:
        """What the file calls the kind of its values."""
        return self.kind.name

    @property
    def codec(self) -> Codec | None:
        """A codec that holds the blocks as they are, if there is one."""
        kept = KEPT.get(self.kind.name)
        return kept.codec if kept is not None and len(self.shape) == 2 else None

    @property
    def exact(self) -> bool:
        """Whether the weights of `codec` are equal to those that `read` gives."""
        return KEPT[self.kind.name].exact

    @property
    def shared(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of `codec` that all rows share."""
        return KEPT[self.kind.name].shared

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`, those that are `shared` left out."""
        blocks = self.raw(begin, end).reshape(-1, self.kind.bytes)
        return KEPT[self.kind.name].rows(blocks, end - begin)

    def raw(self, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """The blocks of rows [begin, end), u8 [..., row_bytes]."""
        stored = Tensor(self.name, self.path, "U8", (*self.shape[:-1], self._row_bytes), self.offset)
        return stored.read(begin, end).astype(np.uint8, copy=False)

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end), f32 [end - begin, ...].

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        if len(self.shape) == 1:  # a vector is one row
            whole: npt.NDArray[np.generic] = self.kind.rows(replace(self, shape=(1, *self.shape)).raw(0, 1))[0]
            return whole[begin:end]
        end = self.shape[0] if end is None else end
        raw = self.raw(begin, end)
        with np.errstate(all="ignore"):  # what is not finite is told by those who use the values
            values = self.kind.rows(raw.reshape(-1, self._row_bytes))
        out: npt.NDArray[np.generic] = values.reshape(end - begin, *self.shape[1:])
        return out


@dataclass(frozen=True)
class GgufCheckpoint:
    """What `open_gguf` found: see `reader.Checkpoint` for the members. `paths`: of all files of the model."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    header: str
    paths: tuple[Path, ...]


def open_gguf(path: Path) -> GgufCheckpoint:
    """Opens a GGUF file, or the files of a model of which it is one, reading headers only.

    Raises:
        CheckpointError: damaged, or its tensors are not those of its architecture.
        UnsupportedModelError: an architecture that edgekit does not read.
    """
    parts = read_parts(path)
    file = joined(parts)
    _, arch = architecture(file)
    stored = {name: _tensor(part.path, entry) for part in parts for name, entry in part.tensors.items()}
    config = config_of(file, stored)
    tensors = _renamed(file, arch, config, stored)
    files = {name: json.dumps(value, ensure_ascii=False).encode() for name, value in tokenizer_of(file).items()}
    files["config.json"] = json.dumps(config).encode()
    return GgufCheckpoint(config, tensors, files, file.digest, tuple(part.path for part in parts))


def _tensor(path: Path, entry: Entry) -> Tensor:
    if entry.kind.name in DTYPES:
        return Tensor(entry.name, path, entry.kind.name, entry.shape, entry.offset)
    return BlockTensor(entry.name, path, "F32", entry.shape, entry.offset, entry.kind)


def _renamed(
    file: GgufFile, arch: Architecture, config: Mapping[str, Any], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors under the names of transformers, each as transformers has it."""
    out: dict[str, Tensor] = {}
    linear: dict[str, dict[str, Tensor]] = {}
    layers = config["num_hidden_layers"] if type(config.get("num_hidden_layers")) is int else 1 << 30

    def add(name: str, tensor: Tensor) -> None:
        if name in out:
            raise CheckpointError(f"{file.path}: two tensors are '{name}'")
        out[name] = replace(tensor, name=name)

    for name, tensor in stored.items():
        found = LAYER_NAME.fullmatch(name) or BARE_NAME.fullmatch(name)
        if name in SKIPPED or name.endswith(SKIPPED):
            continue
        if found is None:
            stem, _, end = name.rpartition(".")
            add(f"{arch.ends[stem]}.{end}" if stem in arch.ends else name, _whole_norm(arch, stem, tensor))
            continue
        layer, stem, end = f"model.layers.{int(found[1])}.", found[2], found[3]
        if int(found[1]) >= layers:
            continue  # guesses the tokens after the next one; the model does without
        if arch.linear and stem in STEMS:
            linear.setdefault(layer, {})[stem] = tensor
        elif arch.experts and stem == GATE_UP and len(tensor.shape) == 3:
            for e in range(tensor.shape[0]):
                expert = f"{layer}{arch.experts.format(e=e)}."
                for which, part in zip(("ffn_gate_exps", "ffn_up_exps"), stacked_gate_up(tensor, e), strict=True):
                    add(f"{expert}{arch.expert_names[which]}.{end}", part)
        elif arch.pairs and stem in EXPERTS:
            _add_pairs(add, layer, stem, end, name, stored)
        elif arch.experts and stem in EXPERTS and len(tensor.shape) == 3:
            for e in range(tensor.shape[0]):
                add(f"{layer}{arch.experts.format(e=e)}.{arch.expert_names[stem]}.{end}", tensor.item(e))
        elif stem == "attn_sinks":
            add(layer + "self_attn.sinks", tensor)
        else:
            ours = f"{layer}{arch.layer[stem]}.{end}" if stem in arch.layer else name
            add(ours.removesuffix(".bias") if stem == "exp_probs_b" else ours, _as_ours(arch, stem, tensor, config))
    for layer, found_here in linear.items():
        for name, tensor in linear_tensors(config, found_here, tiled=arch.linear == "tiled"):
            add(layer + name, tensor)
    return out


def _as_ours(arch: Architecture, stem: str, tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
    """A tensor of a layer with its rows, shape and values as transformers has them."""
    if arch.rotates and stem in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if stem == "attn_q" else "num_key_value_heads"]
        if type(heads) is not int or heads < 1 or tensor.shape[0] % (2 * heads):
            raise CheckpointError(f"{tensor.path}: tensor '{tensor.name}' does not divide into {heads} heads")
        return rotated(tensor, heads)
    if stem == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
        return replace(tensor, shape=(1, *tensor.shape))
    if stem == "shortconv.conv" and len(tensor.shape) == 2:
        return replace(tensor, shape=(tensor.shape[0], 1, tensor.shape[1]))
    return _whole_norm(arch, stem, tensor)


def _whole_norm(arch: Architecture, stem: str, tensor: Tensor) -> Tensor:
    return shifted(tensor, -arch.norm_add) if arch.norm_add and stem.endswith("norm") else tensor


def _add_pairs(add: Any, layer: str, stem: str, end: str, name: str, stored: Mapping[str, Tensor]) -> None:
    """Experts of gpt-oss: gate and up become one tensor of rows by turns."""
    suffix = BLOCKS if end == "weight" else "_bias"
    if stem == "ffn_down_exps":
        add(f"{layer}mlp.experts.down_proj{suffix}", stored[name])
    if stem != "ffn_gate_exps":
        return
    up = stored.get(name.replace("ffn_gate_exps", "ffn_up_exps"))
    gate = stored[name]
    if up is None or up.shape != gate.shape or len(gate.shape) != (3 if end == "weight" else 2):
        raise CheckpointError(f"{gate.path}: tensor '{name}' and that of up do not go together")
    add(f"{layer}mlp.experts.gate_up_proj{suffix}", interleaved(name, gate, up))
