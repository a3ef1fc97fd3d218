"""One data-only description per family; `FAMILIES`, `ENCODERS` or `VISION` is the list a new file is added to."""

from edgekit.arch.families import (
    bert,
    bitnet,
    cohere2,
    gemma3,
    gemma4,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    granite,
    idefics3,
    lfm2,
    lfm2_vl,
    llama,
    mixtral,
    modernbert,
    nemotron,
    nomic_bert,
    olmo2,
    olmoe,
    openelm,
    opt,
    phi3,
    qwen,
    qwen_hybrid,
    smollm3,
)
from edgekit.arch.family import Family, VisionFamily

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
    smollm3.SMOLLM3,
    olmo2.OLMO3,
    granite.GRANITE,
    granite.GRANITE_MOE,
    granite.GRANITE_MOE_HYBRID,
    qwen.QWEN2_MOE,
    olmoe.OLMOE,
    cohere2.COHERE2,
    nemotron.NEMOTRON,
    lfm2.LFM2,
    lfm2.LFM2_MOE,
    gpt_oss.GPT_OSS,
    gemma4.GEMMA4,
    qwen_hybrid.QWEN3_NEXT,
    qwen_hybrid.QWEN3_5,
    qwen_hybrid.QWEN3_5_MOE,
    bitnet.BITNET,
)

# Models that give vectors and scores, not text.
ENCODERS: tuple[Family, ...] = (
    bert.BERT,
    bert.ROBERTA,
    bert.XLM_ROBERTA,
    bert.DISTILBERT,
    modernbert.MODERNBERT,
    nomic_bert.NOMIC_BERT,
)

# What models that write text have to see pictures, by the model_type of the whole.
VISION: tuple[VisionFamily, ...] = (idefics3.IDEFICS3, idefics3.SMOLVLM, gemma3.VISION, lfm2_vl.LFM2_VL)
