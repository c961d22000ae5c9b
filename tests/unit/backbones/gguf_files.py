"""Writes a tiny checkpoint as the GGUF file that llama.cpp's own conversion would make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.conftest import save_tiny
from trainables.backbones.conversion.architectures import architectures

# Family -> architecture of the file; Mistral's is told apart from Llama's by nothing.
ARCHITECTURES = {each.family: name for name, each in architectures().items()}
_HEADS = ("embed_out.weight",)  # under which a head is stored that has another name in the model
_CONTROL, _NORMAL = 3, 1
# Rows that can be quantised, and what a file cannot say and is the same in all that there are.
_SIZES = {"intermediate_size": 64}
SIZES: dict[str, dict[str, Any]] = {
    "bloom": {},
    "gpt2": {"n_inner": 64},
    "falcon": {"ffn_hidden_size": 64},
    "gemma2": {"intermediate_size": 64, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "intermediate_size": 64,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window_pattern": 6,
    },
}


def write_gguf(
    checkpoint: Path,
    path: Path,
    kind: Kind = Kind.F32,
    *,
    pre: str = "gpt-2",
    architecture: str | None = None,
    extra: Kind | None = None,
    rope_factors: np.ndarray | None = None,
    split_parts: int = 1,
    **changed: Any,
) -> Path:
    """A GGUF file of a checkpoint folder.

    Args:
        checkpoint: Folder of a tiny model.
        path: The file to make.
        kind: How matrices are stored, where their rows are long enough.
        pre: The rule by which the tokenizer cuts words.
        architecture: What the file says it is; None: what it is.
        extra: Type of a tensor `extra` that no model has; None: there is none.
        rope_factors: Of Llama 3's scaled positions.
        split_parts: Files that it says it is one of.
        changed: Metadata behind the architecture's name that are to be others; None: left out.
    """
    config = AutoConfig.from_pretrained(checkpoint)
    name = ARCHITECTURES[config.model_type]
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture or name)
    writer.add_uint16("split.count", split_parts)
    values = _metadata(name, config) | {key.replace("__", "."): v for key, v in changed.items()}
    for key, value in values.items():
        if value is not None:
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
            adder = writer.add_string if isinstance(value, str) else add[type(value)]
            adder(f"{name}.{key}", value)
    _add_tokenizer(writer, checkpoint, pre)
    for stored, weight in tensors_of(checkpoint).items():
        add_tensor(writer, stored, weight, kind if weight.ndim == 2 else Kind.F32)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.ascontiguousarray(rope_factors, np.float32))
    if extra is not None:
        writer.add_tensor("extra", np.zeros(32, np.int8), raw_dtype=extra)
    return finish(writer, path)


def add_tensor(writer: gguf.GGUFWriter, name: str, weight: np.ndarray, kind: Kind) -> None:
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    kind = kind if weight.shape[-1] % block == 0 else Kind.F32
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    if kind is Kind.F32:
        writer.add_tensor(name, weight)
    else:
        writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """The weights of a checkpoint under llama.cpp's names, and in its order of rows."""
    config = AutoConfig.from_pretrained(checkpoint)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stored = load_file(checkpoint / "model.safetensors")
    name = ARCHITECTURES[config.model_type]
    number = {known: each for each, known in gguf.MODEL_ARCH_NAMES.items()}[name]
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    made: dict[str, np.ndarray] = {}
    for path, parameter in model.named_parameters():
        short = path.removeprefix(f"{model.base_model_prefix}.")
        weight = next(stored[each] for each in (path, short, *_HEADS) if each in stored).numpy()
        assert weight.shape == tuple(parameter.shape)
        spelt = [table.get_name(each, (".weight", ".bias")) for each in (path, short)]
        to = next(each for each in spelt if each)
        if isinstance(model.get_submodule(path.rpartition(".")[0]), Conv1D) and weight.ndim == 2:
            weight = weight.T
        made[to] = _rows(name, to, weight, config)
    return made


def _rows(name: str, tensor: str, weight: np.ndarray, config: Any) -> np.ndarray:
    """Written out for each architecture: what the reading has to undo."""
    heads = config.num_attention_heads
    if name in ("gemma2", "gemma3") and tensor.endswith("norm.weight"):
        return weight + 1
    if name == "llama" and (".attn_q." in tensor or ".attn_k." in tensor):
        own = heads if ".attn_q." in tensor else config.num_key_value_heads
        halves = weight.reshape(own, 2, weight.shape[0] // own // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)
    if name in ("bloom", "gptneox") and ".attn_qkv." in tensor:
        by_head = weight.reshape(heads, 3, weight.shape[0] // heads // 3, *weight.shape[1:])
        return np.concatenate([by_head[:, part] for part in range(3)]).reshape(weight.shape)
    return weight


def _metadata(name: str, config: Any) -> dict[str, Any]:
    rotary = getattr(config, "rope_parameters", None) or {}
    rotary = rotary.get("full_attention", rotary)
    heads, width = config.num_attention_heads, config.hidden_size
    epsilon = next(
        float(getattr(config, key))
        for key in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
        if hasattr(config, key)
    )
    norm = "rms_epsilon" if hasattr(config, "rms_norm_eps") else "epsilon"
    ffn = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    ffn = ffn or getattr(config, "ffn_hidden_size", None)
    kv_heads = getattr(config, "num_key_value_heads", 1 if name == "falcon" else heads)
    share = rotary.get("partial_rotary_factor", 1.0)
    head_dim = getattr(config, "head_dim", None) or width // heads
    return {
        "context_length": getattr(config, "max_position_embeddings", None) or 64,
        "embedding_length": width,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": ffn or 4 * width,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        f"attention.layer_norm_{norm}": epsilon,
        "attention.key_length": head_dim if name in ("qwen3", "gemma2", "gemma3") else None,
        "attention.sliding_window": getattr(config, "sliding_window", None),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "rope.dimension_count": int(head_dim * share) if rotary else None,
        "rope.freq_base": float(rotary["rope_theta"]) if rotary else None,
        "use_parallel_residual": getattr(config, "use_parallel_residual", None),
    }


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, pre: str) -> None:
    model: Mapping[str, Any] = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL] * 4 + [_NORMAL] * (len(tokens) - 4))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)


def tiny_gguf(folder: Path, family: str = "llama", kind: Kind = Kind.F32, **changed: Any) -> Path:
    """A GGUF file of a random model whose rows can be quantised; its checkpoint lies beside."""
    checkpoint = save_tiny(family, folder / "checkpoint", **SIZES.get(family, _SIZES))
    return write_gguf(checkpoint, folder / f"tiny-{family}.gguf", kind, **changed)
