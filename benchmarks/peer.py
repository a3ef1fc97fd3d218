"""The peer: llama.cpp through llama-cpp-python, on a synthetic Q4_0 file of the same shape.

Run as a program (it is, in a process of its own): python peer.py make|run ... ; needs edgekit[bench].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make(path: Path, config: dict[str, Any], shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    """Writes a Q4_0 GGUF with random codes."""
    import gguf
    import numpy as np

    vocab = config["vocab_size"]
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<0x{i - 3:02X}>" if 3 <= i < 259 else f"<t{i}>" for i in range(vocab)])
    w.add_token_scores([0.0] * vocab)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocab - 259))
    rng = np.random.default_rng(0)
    for name, shape in shapes:
        parts = name.split(".")
        target = NAMES.get(name) or f"blk.{parts[2]}.{PARTS['.'.join(parts[3:-1])]}.weight"
        if len(shape) == 1:
            w.add_tensor(target, np.ones(shape, np.float32))
            continue
        blocks = np.empty((shape[0] * shape[1] // 32, 18), np.uint8)
        blocks[:, :2] = np.full((len(blocks), 1), 0.005, np.float16).view(np.uint8)
        blocks[:, 2:] = rng.integers(0, 256, (len(blocks), 16), dtype=np.uint8)
        w.add_tensor(target, blocks.reshape(shape[0], -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def run(path: str, prompt: int, tokens: int, threads: int, repack: bool) -> dict[str, float]:
    """Prompt and generation speed in tokens per second."""
    import llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def params() -> Any:
        made = defaults()
        made.use_extra_bufts = repack  # False: compute on the mapped file as it is (--no-repack)
        return made

    llama_cpp.llama_cpp.llama_model_default_params = params
    model = llama_cpp.Llama(path, n_ctx=256, n_threads=threads, n_threads_batch=threads, n_batch=128, verbose=False)
    begin = time.monotonic()
    model.eval(list(range(300, 300 + prompt)))
    middle = time.monotonic()
    for i in range(tokens):
        model.eval([400 + i])
    end = time.monotonic()
    return {"prompt": prompt / (middle - begin), "generation": tokens / (end - middle)}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        job = json.load(sys.stdin)
        make(Path(sys.argv[2]), job["config"], [(n, tuple(s)) for n, s in job["shapes"]])
    else:
        _, _, file, prompt_count, token_count, thread_count, repacked = sys.argv
        print(json.dumps(run(file, int(prompt_count), int(token_count), int(thread_count), repacked == "1")))
