"""Kinds of damage to a checkpoint's folder, each with words that the refusal must hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import VOCABULARY
from trainables.backbones.families import get_family

WEIGHTS = "model.safetensors"
Damage = Callable[[Path], list[str]]


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    changed = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def store(folder: Path, held: dict[str, Tensor]) -> None:
    save_file(held, folder / WEIGHTS, metadata={"format": "pt"})


def down(folder: Path, layer: int = 1) -> str:
    """Name of the FFN's output weight of a layer, as it is stored."""
    family = get_family(json.loads((folder / "config.json").read_text())["model_type"])
    return f"{family.layers}.{layer}.{family.down}.weight"


def one_tensor_gone(folder: Path) -> list[str]:
    held = tensors(folder)
    del held[down(folder)]
    store(folder, held)
    return [WEIGHTS, down(folder), "holds no tensor"]


def final_norm_gone(folder: Path) -> list[str]:
    held = tensors(folder)
    norm = get_family(json.loads((folder / "config.json").read_text())["model_type"]).final_norm
    names = [name for name in held if name.startswith(f"{norm}.")]
    for name in names:
        del held[name]
    store(folder, held)
    return [WEIGHTS, min(names), "config.json asks for it"]


def head_gone(folder: Path) -> list[str]:
    change(folder / "config.json", tie_word_embeddings=False)
    return [WEIGHTS, "lm_head.weight"]


def head_differs(folder: Path) -> list[str]:
    held = tensors(folder)
    embedding = get_family(json.loads((folder / "config.json").read_text())["model_type"]).embedding
    held["lm_head.weight"] = held[f"{embedding}.weight"] + 1
    store(folder, held)
    change(folder / "config.json", tie_word_embeddings=True)
    return [WEIGHTS, "lm_head.weight", embedding, "tie_word_embeddings"]


def stranger(folder: Path) -> list[str]:
    store(folder, {**tensors(folder), "score.weight": torch.zeros(2, 2)})
    return [WEIGHTS, "score.weight", "no place"]


def shape(folder: Path) -> list[str]:
    held = tensors(folder)
    held[down(folder)] = torch.zeros(3, 5)
    store(folder, held)
    return [WEIGHTS, down(folder), "(3, 5)"]


def layer_gone(folder: Path) -> list[str]:
    held = tensors(folder)
    last = down(folder, 3).partition(".3.")[0] + ".3."
    store(folder, {name: value for name, value in held.items() if not name.startswith(last)})
    return [WEIGHTS, last, "4 layers"]


def layer_too_many(folder: Path) -> list[str]:
    held = tensors(folder)
    held[down(folder, 4)] = held[down(folder)].clone()
    store(folder, held)
    return [WEIGHTS, down(folder, 4), "4 layers"]


def deeper_config(folder: Path) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    depth = "n_layer" if "n_layer" in config else "num_hidden_layers"
    change(folder / "config.json", **{depth: 5}, layer_types=None)
    return [WEIGHTS, ".4.", "5 layers"]


def shallower_config(folder: Path) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    depth = "n_layer" if "n_layer" in config else "num_hidden_layers"
    change(folder / "config.json", **{depth: 3}, layer_types=None)
    return [WEIGHTS, ".3.", "3 layers"]


def not_finite(value: float) -> Damage:
    def damage(folder: Path) -> list[str]:
        held = tensors(folder)
        held[down(folder)].view(-1)[-1] = value
        store(folder, held)
        return [WEIGHTS, down(folder), "not finite"]

    return damage


def cut(folder: Path) -> list[str]:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])
    return [WEIGHTS, "cut short", str(len(whole) - 100)]


def cut_in_header(folder: Path) -> list[str]:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:20])
    return [WEIGHTS, "cut short"]


def nothing_in_it(folder: Path) -> list[str]:
    (folder / WEIGHTS).write_bytes(b"")
    return [WEIGHTS, "0 bytes"]


def longer(folder: Path) -> list[str]:
    with (folder / WEIGHTS).open("ab") as stream:
        stream.write(b"more")
    return [WEIGHTS, "longer than its header says"]


def pointer(name: str) -> Damage:
    def damage(folder: Path) -> list[str]:
        (folder / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 538090408\n"
        )
        return [name, "Git LFS pointer", "git lfs pull"]

    return damage


def web_page(folder: Path) -> list[str]:
    (folder / WEIGHTS).write_text("<!DOCTYPE html><html>Sign in to go on</html>" * 9)
    return [WEIGHTS, "no safetensors file"]


def quantised_config(folder: Path) -> list[str]:
    change(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    return ["config.json", "quantization_config", "gptq"]


def quantised_weight(folder: Path) -> list[str]:
    held = tensors(folder)
    held[down(folder)] = held[down(folder)].to(torch.int8)
    store(folder, held)
    return [WEIGHTS, down(folder), "I8"]


def weights_elsewhere(folder: Path) -> list[str]:
    save_file(tensors(folder), folder / "other.safetensors")
    change(folder / "config.json", transformers_weights="other.safetensors")
    return ["config.json", "transformers_weights"]


def other_name(folder: Path) -> list[str]:
    (folder / WEIGHTS).rename(folder / "weights.safetensors")
    return ["weights.safetensors", WEIGHTS]


def no_tokenizer(folder: Path) -> list[str]:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return ["no tokenizer", "tokenizer.json"]


def torn_tokenizer(folder: Path) -> list[str]:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])
    return ["tokenizer.json", "cannot be read"]


def other_tokenizer(folder: Path) -> list[str]:
    change(folder / "tokenizer.json", model={"type": "Nonsense"})
    return ["tokenizer.json", "cannot be read"]


def token_without_embedding(folder: Path) -> list[str]:
    added = {"content": "<more>", "id": VOCABULARY, "special": True, "normalized": False}
    added |= {"single_word": False, "lstrip": False, "rstrip": False}
    known = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    change(folder / "tokenizer.json", added_tokens=[*known, added])
    return ["<more>", str(VOCABULARY), f"0 to {VOCABULARY - 1}"]


def nonsense_config(folder: Path) -> list[str]:
    (folder / "config.json").write_text("[]")
    return ["config.json"]


def odd_heads(folder: Path) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    heads = "n_head" if "n_head" in config else "num_attention_heads"
    change(folder / "config.json", **{heads: "many"})
    return ["config.json"]


def _named(*damages: Damage) -> dict[str, Damage]:
    return {damage.__name__: damage for damage in damages}


# To what each family stores in its own way.
OF_WEIGHTS = _named(
    one_tensor_gone,
    final_norm_gone,
    head_gone,
    head_differs,
    stranger,
    shape,
    layer_gone,
    layer_too_many,
    deeper_config,
    shallower_config,
) | {"nan": not_finite(float("nan"))}
# To files that are alike in all of them.
OF_FILES = _named(
    cut,
    cut_in_header,
    nothing_in_it,
    longer,
    web_page,
    quantised_config,
    quantised_weight,
    weights_elsewhere,
    other_name,
    no_tokenizer,
    torn_tokenizer,
    other_tokenizer,
    token_without_embedding,
    nonsense_config,
    odd_heads,
) | {
    "inf": not_finite(float("inf")),
    "minus_inf": not_finite(float("-inf")),
    "pointer": pointer(WEIGHTS),
    "pointer_tokenizer": pointer("tokenizer.json"),
    "pointer_config": pointer("config.json"),
}
