"""BERT, RoBERTa, XLM-RoBERTa and DistilBERT (arXiv 1810.04805, 1907.11692, 1911.02116, 1910.01108): norms behind the
residual, learned positions; of (XLM-)RoBERTa they begin behind the padding token's id."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import COMMON, ENCODER, EncoderParts, Family

BERT = Family(
    model_types=("bert",),
    defaults=defaults("bert"),
    aliases=aliases("bert"),
    reads=ENCODER,
    harmless=frozenset(
        {
            "attention_probs_dropout_prob",
            "sentence_transformers",
            "sbert_ce_default_activation_function",
            "output_past",
            "directionality",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    ),
    fields={"eps": "layer_norm_eps"},
    required_values={"is_decoder": (False,), "position_embedding_type": ("absolute", None)},
    prefixes=("bert.", ""),
    qkv_bias="always",
    o_bias="always",
    ffn_bias="always",
    embed="embeddings.word_embeddings",
    position="embeddings.position_embeddings",
    final_norm=None,
    attention_norm="encoder.layer.{i}.attention.output.LayerNorm",
    q="encoder.layer.{i}.attention.self.query",
    k="encoder.layer.{i}.attention.self.key",
    v="encoder.layer.{i}.attention.self.value",
    o="encoder.layer.{i}.attention.output.dense",
    ffn_norm="encoder.layer.{i}.output.LayerNorm",
    up="encoder.layer.{i}.intermediate.dense",
    down="encoder.layer.{i}.output.dense",
    norm="layer",
    norm_order="post",
    rope=False,
    encoder=EncoderParts(
        embedding_norm="embeddings.LayerNorm",
        token_types="embeddings.token_type_embeddings",
        score="classifier",
        score_project="bert.pooler.dense",
    ),
)

ROBERTA = replace(
    BERT,
    model_types=("roberta",),
    defaults=defaults("roberta"),
    aliases=aliases("roberta"),
    prefixes=("roberta.", ""),
    encoder=EncoderParts(
        embedding_norm="embeddings.LayerNorm",
        token_types="embeddings.token_type_embeddings",
        padded_positions=True,
        score="classifier.out_proj",
        score_project="classifier.dense",
    ),
)

XLM_ROBERTA = replace(
    ROBERTA, model_types=("xlm-roberta",), defaults=defaults("xlm-roberta"), aliases=aliases("xlm-roberta")
)

DISTILBERT = replace(
    BERT,
    model_types=("distilbert",),
    defaults=defaults("distilbert"),
    aliases=aliases("distilbert"),
    reads=COMMON
    | {"dim", "hidden_dim", "n_layers", "n_heads", "max_position_embeddings", "activation", "pad_token_id"},
    harmless=BERT.harmless | {"qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_"},
    fields={"hidden": "dim", "layers": "n_layers", "heads": "n_heads", "ffn": "hidden_dim", "activation": "activation"},
    prefixes=("distilbert.", ""),
    attention_norm="transformer.layer.{i}.sa_layer_norm",
    q="transformer.layer.{i}.attention.q_lin",
    k="transformer.layer.{i}.attention.k_lin",
    v="transformer.layer.{i}.attention.v_lin",
    o="transformer.layer.{i}.attention.out_lin",
    ffn_norm="transformer.layer.{i}.output_layer_norm",
    up="transformer.layer.{i}.ffn.lin1",
    down="transformer.layer.{i}.ffn.lin2",
    eps=1e-12,
    encoder=EncoderParts(
        embedding_norm="embeddings.LayerNorm",
        score="classifier",
        score_project="pre_classifier",
        score_activation="relu",
    ),
)
