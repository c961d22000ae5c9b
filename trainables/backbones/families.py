"""Family -> where its parts are; the only place that names a model family."""

from __future__ import annotations

from trainables.errors import BackboneError
from trainables.interfaces import Family


def _llama_like(name: str) -> Family:
    return Family(
        name=name,
        decoder="model",
        layers="model.layers",
        embedding="model.embed_tokens",
        final_norm="model.norm",
        ffn="mlp",
        up="mlp.up_proj",
        gate="mlp.gate_proj",
        down="mlp.down_proj",
        activation="mlp.act_fn",
    )


_FAMILIES = {
    "llama": _llama_like("llama"),
    "mistral": _llama_like("mistral"),
    "qwen2": _llama_like("qwen2"),
    "gpt2": Family(
        name="gpt2",
        decoder="transformer",
        layers="transformer.h",
        embedding="transformer.wte",
        final_norm="transformer.ln_f",
        ffn="mlp",
        up="mlp.c_fc",
        down="mlp.c_proj",
        activation="mlp.act",
        is_transposed=True,
        input_only=("wpe",),
    ),
    "bloom": Family(
        name="bloom",
        decoder="transformer",
        layers="transformer.h",
        embedding="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        ffn="mlp",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        activation="mlp.gelu_impl",
        input_only=("word_embeddings_layernorm",),
    ),
}


def get_family(model_type: str) -> Family:
    """The row of `model_type`, the name in a checkpoint's config.json.

    Raises:
        BackboneError: If the family is not in the table.
    """
    try:
        return _FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(_FAMILIES))
        raise BackboneError(f"model family {model_type!r} is not known; known: {known}") from None
