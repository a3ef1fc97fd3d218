"""One data-only description per family; `FAMILIES` is the list a new file is added to."""

from edgekit.arch.families import (
    gemma3,
    gpt2,
    gpt_neo,
    gpt_neox,
    llama,
    mixtral,
    olmo2,
    openelm,
    opt,
    phi3,
    qwen,
)
from edgekit.arch.family import Family

FAMILIES: tuple[Family, ...] = (
    llama.LLAMA,
    llama.MISTRAL,
    qwen.QWEN2,
    qwen.QWEN3,
    qwen.QWEN3_MOE,
    gemma3.GEMMA3,
    phi3.PHI3,
    olmo2.OLMO2,
    opt.OPT,
    gpt2.GPT2,
    gpt_neo.GPT_NEO,
    gpt_neox.GPT_NEOX,
    openelm.OPENELM,
    mixtral.MIXTRAL,
)
