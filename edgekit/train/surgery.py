"""Replacing a transformers model's activations by ReLUs, in place.

Sources: ReLU Strikes Back (arXiv 2310.04564): stage 1 replaces the activation (or shifts it), stage 2
puts a ReLU after the norms. FATReLU / ProSparse (arXiv 2402.13516): a threshold. dReLU / TurboSparse
(arXiv 2406.05955): ReLU on gate and up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import ConvertError

KINDS = ("relu", "shifted", "threshold", "drelu")
ACTIVATION_NAMES = ("act_fn", "activation_fn", "act", "activation")  # of an FFN module's activation
CONFIG_KEYS = ("hidden_act", "activation_function", "hidden_activation")
UP_NAMES = ("up_proj",)
PRE_NORMS = ("input_layernorm", "post_attention_layernorm", "ln_1", "ln_2", "self_attn_layer_norm", "final_layer_norm")


@dataclass(frozen=True)
class Surgery:
    """What to change: the activation's kind, its threshold or shift, and whether norms get a ReLU."""

    kind: str = "relu"
    threshold: float = 0.0
    norms: bool = False

    def config(self) -> dict[str, Any]:
        """What config.json must say of it, but for the activation's own key."""
        out: dict[str, Any] = {}
        if self.kind in ("shifted", "threshold"):
            out["hidden_act_threshold"] = self.threshold
        if self.kind == "drelu":
            out["ffn_up_relu"] = True
        if self.norms:
            out["norm_relu"] = True
        return out

    @property
    def activation(self) -> str:
        """The activation's name in config.json."""
        return {"shifted": "shifted_relu", "threshold": "threshold"}.get(self.kind, "relu")


class Activation(nn.Module):
    """The new activation; counts the zeros it makes while `counting`."""

    def __init__(self, surgery: Surgery) -> None:
        super().__init__()
        self.kind, self.threshold = surgery.kind, surgery.threshold
        self.counting = False
        self.zeros, self.seen = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "shifted":
            y = torch.relu(x - self.threshold)
        elif self.kind == "threshold":
            y = torch.where(x > self.threshold, x, torch.zeros_like(x))
        else:
            y = torch.relu(x)
        if self.counting:
            self.zeros += int((y == 0).sum())
            self.seen += y.numel()
        return y


def operate(model: nn.Module, surgery: Surgery) -> list[Activation]:
    """Changes a model; returns the new activations, layer by layer.

    Raises:
        ConvertError: no feed-forward activation was found, or dReLU on a model without up projection.
    """
    made: list[Activation] = []
    for module in list(model.modules()):
        name = next((n for n in ACTIVATION_NAMES if _is_activation(module, n)), None)
        if name is None or not _has_weights(module):
            continue
        made.append(Activation(surgery))
        setattr(module, name, made[-1])
        if surgery.kind == "drelu":
            up = next((getattr(module, n) for n in UP_NAMES if hasattr(module, n)), None)
            if up is None:
                raise ConvertError("drelu needs gated feed-forward blocks with an up_proj; use --activation relu")
            up.register_forward_hook(lambda module, args, out: torch.relu(out))
    if not made:
        raise ConvertError("found no activation to replace; this architecture is not one that relufy knows")
    norms = [n for layer in model.modules() for n in _pre_norms(layer)] if surgery.norms else []
    if surgery.norms and not norms:
        raise ConvertError("stage 2 puts ReLU after the norms in front of blocks, and this architecture has none there")
    for norm in norms:
        norm.register_forward_hook(lambda module, args, out: torch.relu(out))
    return made


def _pre_norms(layer: nn.Module) -> list[nn.Module]:
    """Norms in front of a layer's blocks. What follows attention is one of them, unless there is another."""
    children = dict(layer.named_children())
    names = set(PRE_NORMS) & children.keys()
    if "pre_feedforward_layernorm" in children:
        names = {"input_layernorm", "pre_feedforward_layernorm"} & children.keys()
    elif "post_feedforward_layernorm" in children:
        names = set()
    stacks = any(isinstance(c, nn.ModuleList) for c in children.values())  # it holds the layers: the last norm is its
    return [] if stacks else [children[n] for n in sorted(names)]


def _is_activation(module: nn.Module, name: str) -> bool:
    found = getattr(module, name, None)
    return callable(found) and not isinstance(found, str)


def _has_weights(module: nn.Module) -> bool:
    """Holds the projections itself: not an activation that wraps another."""
    return any(isinstance(c, nn.Linear) or type(c).__name__ == "Conv1D" for c in module.children())


def activation_key(config: dict[str, Any]) -> str:
    """The key of config.json that names the activation."""
    return next((k for k in CONFIG_KEYS if k in config), "hidden_act")
