"""A GGUF file becomes the checkpoint that it was made of, and nothing half-made stays behind."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.conftest import FAMILIES, TEXTS, save_tiny
from tests.unit.backbones.gguf_files import (
    ARCHITECTURES,
    add_tensor,
    finish,
    tensors_of,
    tiny_gguf,
    write_gguf,
)
from trainables.backbones.checkpoints.checkpoint import examine
from trainables.backbones.conversion import wheels
from trainables.backbones.conversion.architectures import architectures, shape_of
from trainables.backbones.conversion.header import Header, gguf_file, read_header
from trainables.backbones.conversion.prepared import converted
from trainables.backbones.loading import load_backbone
from trainables.backbones.tokenizer import load_tokenizer
from trainables.errors import BackboneError
from trainables.spec import BackboneSpec

READ = sorted(set(FAMILIES) & set(ARCHITECTURES))
READ_BY_TRANSFORMERS = sorted(set(READ) & {"llama", "gpt2", "bloom"})


def spec(model: Path, dtype: Any = "float32") -> BackboneSpec:
    return BackboneSpec("x", str(model), dtype)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids).logits
    return found


def left_in(cache: Path) -> list[str]:
    """All folders and weights in a cache, but for what is only remembered of files."""
    found = cache.rglob("*") if cache.is_dir() else ()
    return [
        path.name
        for path in found
        if path.name not in ("backbones", "checkpoints", "packages")
        and path.suffix not in (".lock", ".sha256")
    ]


@pytest.mark.parametrize("family", READ)
def test_a_file_that_is_not_quantised_becomes_the_checkpoint_it_was_made_of(
    family: str, tmp_path: Path
) -> None:
    path = tiny_gguf(tmp_path, family)
    made = converted(spec(path), tmp_path / "cache")
    # the checkpoint's own head of its embedding is stored once
    own, before = load_file(made / "model.safetensors"), tmp_path / "checkpoint"
    kept = load_file(before / "model.safetensors")
    assert own.keys() >= kept.keys() - {"lm_head.weight", "embed_out.weight"}
    is_exact = architectures()[ARCHITECTURES[family]].norms == "as_they_are"
    rounding = {"rtol": 0.0, "atol": 0.0 if is_exact else 2.0**-23}  # of a weight plus and minus 1
    for name in own.keys() & kept.keys():
        torch.testing.assert_close(own[name], kept[name], **rounding)
    ids = torch.arange(5, 35)[None]
    ours, theirs = load_backbone(made), load_backbone(before)
    if is_exact:
        assert torch.equal(logits(ours.model, ids), logits(theirs.model, ids))
    else:
        torch.testing.assert_close(logits(ours.model, ids), logits(theirs.model, ids))
    for text in TEXTS:
        assert ours.tokenizer(text).input_ids == theirs.tokenizer(text).input_ids


@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_logits_are_those_of_transformers_own_reading(family: str, tmp_path: Path) -> None:
    # transformers reads neither positions nor the width of the FFN from a GPT-2 file
    checkpoint = save_tiny(
        family,
        tmp_path / "checkpoint",
        **({"n_inner": 128, "n_positions": 1024} if family == "gpt2" else {}),
    )
    path = write_gguf(checkpoint, tmp_path / "x.gguf", Kind.Q8_0)
    ours = load_backbone(converted(spec(path), tmp_path / "cache")).model
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    ids = torch.arange(5, 35)[None]
    assert torch.equal(logits(ours, ids), logits(theirs.eval(), ids))


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q4_0, Kind.Q5_1, Kind.Q8_0, Kind.F16, Kind.BF16])
def test_each_tensor_is_what_gguf_dequantises(kind: Kind, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path, "qwen2", kind)
    own = load_file(converted(spec(path), tmp_path / "cache") / "model.safetensors")
    rounded = load_file(converted(spec(path, "bfloat16"), tmp_path / "cache") / "model.safetensors")
    names = {"model.embed_tokens.weight": "token_embd.weight"}
    names |= {
        f"model.layers.{layer}.{ours}.weight": f"blk.{layer}.{theirs}.weight"
        for layer in range(4)
        for ours, theirs in (("self_attn.k_proj", "attn_k"), ("mlp.down_proj", "ffn_down"))
    }
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for ours, theirs in names.items():
        assert stored[theirs].tensor_type is kind
        due = torch.tensor(gguf.dequantize(stored[theirs].data, kind))
        assert torch.equal(own[ours], due), theirs
        assert torch.equal(rounded[ours], due.bfloat16()), theirs
    is_whole = kind in (Kind.F16, Kind.BF16)
    assert read_header(path).quantisation == ("" if is_whole else kind.name)


def test_a_file_is_converted_once_and_its_hash_decides(tmp_path: Path) -> None:
    path, cache = tiny_gguf(tmp_path, kind=Kind.Q8_0), tmp_path / "cache"
    told: list[tuple[str, float]] = []

    def convert(model: Path, dtype: str = "float32") -> Path:
        return converted(spec(model, dtype), cache, lambda what, share: told.append((what, share)))

    with ThreadPoolExecutor(2) as pool:  # two that want it at once: a lock is each one's own
        first, second = pool.map(convert, [path, path])
    assert first == second
    assert [share for what, share in told if what.startswith("converting")][-1] == 1.0
    assert sum(share == 1.0 for _, share in told) == 1
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    copy = tmp_path / "elsewhere" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    assert convert(copy) == convert(copy.parent) == first  # a folder that holds one
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    other = write_gguf(tmp_path / "checkpoint", tmp_path / "b" / path.name, Kind.Q4_1)
    prints = {examine(folder).fingerprint for folder in (first, convert(other))}
    prints.add(examine(convert(path, "bfloat16")).fingerprint)
    assert len(prints) == 3


def test_the_quantised_source_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    made = converted(spec(tiny_gguf(tmp_path, kind=Kind.Q8_0)), tmp_path / "cache")
    source = json.loads((made / "source.json").read_text())
    assert (source["quantisation"], source["dtype"]) == ("Q8_0", "float32")
    before = examine(made).fingerprint
    (made / "source.json").write_text(json.dumps({**source, "gguf_sha256": "0" * 64}))
    assert examine(made).fingerprint != before


@pytest.mark.parametrize(
    ("rule", "text", "tokens"),
    [
        ("gpt-2", " 12", ["Ġ", "1", "2"]),
        ("gpt-2", "a  12", ["a", "Ġ", "Ġ", "1", "2"]),
        # digits are words of their own before blanks are looked at, so that these stand together
        ("smollm", "a  12", ["a", "ĠĠ", "1", "2"]),
        ("qwen2", "e\u0301", ["Ã", "©"]),  # composed
        ("gpt-2", "e\u0301", ["e", "Ì", "ģ"]),
    ],
)
def test_words_are_cut_by_the_rule_that_the_file_names(
    rule: str, text: str, tokens: list[str], tmp_path: Path
) -> None:
    checkpoint = save_tiny("llama", tmp_path / "checkpoint")
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary["ĠĠ"] = vocabulary.pop(last)
    values["model"]["merges"] = [["Ġ", "Ġ"]]
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    made = converted(
        spec(write_gguf(checkpoint, tmp_path / "x.gguf", pre=rule)), tmp_path / "cache"
    )
    tokenizer = load_tokenizer(made)
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == ["<s>", *tokens]


def test_a_sentencepiece_vocabulary_gives_its_own_tokens(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "a", "b", "ab", "▁ab"]
    scores = [0.0] * 259 + [-5.0, -5.0, -5.0, -1.0, -2.0]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 5]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for key, value in _tiny_metadata().items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    checkpoint = save_tiny("llama", tmp_path / "c", num_layers=1, vocab_size=len(tokens))
    for name, weight in tensors_of(checkpoint).items():
        add_tensor(writer, name, weight, Kind.F32)
    made = load_tokenizer(converted(spec(finish(writer, tmp_path / "x.gguf")), tmp_path / "cache"))
    found = made.convert_ids_to_tokens(made("ab abé").input_ids)
    assert found == ["<s>", "▁ab", "▁ab", "<0xC3>", "<0xA9>"]


def _tiny_metadata() -> dict[str, int]:
    return {
        "context_length": 64,
        "embedding_length": 32,
        "block_count": 1,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 8,
    }


def test_a_tokenizer_beside_the_file_is_used_and_must_be_the_files(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path, pre="no-such-rule")
    with pytest.raises(BackboneError, match=r"tokenizer\.ggml\.pre=no-such-rule is not known"):
        converted(spec(path), tmp_path / "cache")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "checkpoint" / name, tmp_path / name)
    made = converted(spec(path), tmp_path / "cache")
    assert (made / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BackboneError, match=r"beside it: the id \d+ is 'b'; in the file it is 'a'"):
        converted(spec(path), tmp_path / "cache")


def test_llama_3s_scaling_is_read_off_its_factors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    checkpoint = save_tiny("llama", tmp_path / "c", rope_parameters=scaling, head_dim=64)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    plain = 500000.0 ** -(torch.arange(0, 64, 2) / 64)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert factors.min() == pytest.approx(1.0)
    assert factors.max() == pytest.approx(8.0)
    made = {}
    for name, held in (("right", factors), ("wrong", factors[::-1])):
        path = write_gguf(checkpoint, tmp_path / f"{name}.gguf", rope_factors=held)
        made[name] = spec(path)
    read = load_backbone(converted(made["right"], tmp_path / "cache")).model
    ids = torch.arange(5, 35)[None]
    torch.testing.assert_close(logits(read, ids), logits(model.eval(), ids))
    with pytest.raises(BackboneError, match="scales positions in a way that is not known"):
        converted(made["wrong"], tmp_path / "cache")


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"architecture": "zebra"}, r"architecture 'zebra', which is not read; read: llama, "),
        ({"expert_count": 8}, "mixture of experts"),
        ({"rope__scaling__type": "yarn"}, r"rope\.scaling\.type=yarn is not read; read: linear"),
        ({"attention__sliding_window": 16}, r"attention\.sliding_window=16 is not read"),
        ({"block_count": None}, r"does not say llama\.block_count"),
        ({"block_count": 5}, r"holds no tensor 'blk\.4\."),
        ({"block_count": 3}, r"its tensor 'blk\.3\..*\(and 8 more\) has no place in a model of"),
        ({"feed_forward_length": 32}, r"'blk\.0\.ffn_\w+\.weight' has the shape"),
        ({"split_parts": 3}, "is one of 3 parts"),
        ({"extra": Kind.I8}, "'extra' has no place"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_and_leaves_nothing(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path, cache = tiny_gguf(tmp_path, **changed), tmp_path / "cache"
    with pytest.raises(BackboneError, match=says) as caught:
        converted(spec(path), cache)
    assert str(caught.value).startswith(f"backbone.model={path}")
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []


def test_a_size_whose_setting_no_file_holds_is_refused() -> None:
    values = {"general.architecture": "gemma2", "gemma2.block_count": 46}
    with pytest.raises(BackboneError, match="a gemma2 of block_count 46 has a setting that its"):
        shape_of(Header(Path("x.gguf"), values, {}))


def test_a_file_that_is_broken_is_refused_in_one_line(tmp_path: Path) -> None:
    path, cache = tiny_gguf(tmp_path), tmp_path / "cache"
    whole = path.read_bytes()
    due = len(whole)
    (tmp_path / "zip.gguf").write_bytes(b"PK" + whole)
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "old.gguf").write_bytes(whole[:4] + (1).to_bytes(4, "little") + whole[8:])
    (tmp_path / "tail.gguf").write_bytes(whole[: due - 100])
    (tmp_path / "head.gguf").write_bytes(whole[:200])
    # the type stands behind name, dimensions and shape
    at = whole.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    (tmp_path / "kind.gguf").write_bytes(whole[:at] + (99).to_bytes(4, "little") + whole[at + 4 :])
    told = {
        "zip": "is no GGUF file",
        "empty": "is no GGUF file, or cannot be read",
        "old": "is GGUF of version 1; versions 2 and 3 are read",
        "tail": rf"is cut short: {due - 100} of {due} bytes, so that the tensor '.*' is not whole",
        "head": "is cut short: its header ends behind 200 bytes",
        "kind": "tensor 'token_embd.weight' is stored as type 99, which is not known",
        "none": "there is no such file",
    }
    for name, says in told.items():
        with pytest.raises(BackboneError, match=says):
            converted(spec(tmp_path / f"{name}.gguf"), cache)
    assert left_in(cache) == []
    with pytest.raises(BackboneError, match=r"holds empty\.gguf, head\.gguf, .*; name one"):
        gguf_file(tmp_path)


def test_a_weight_beyond_the_range_of_the_dtype_is_named(tmp_path: Path) -> None:
    checkpoint = save_tiny("llama", tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][3] = 70000.0
    from safetensors.torch import save_file

    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    path, cache = write_gguf(checkpoint, tmp_path / "x.gguf"), tmp_path / "cache"
    with pytest.raises(BackboneError, match=r"'output_norm\.weight' holds 70000, beyond .*float16"):
        converted(spec(path, "float16"), cache)
    assert left_in(cache) == []
    converted(spec(path, "bfloat16"), cache)


def test_without_room_nothing_half_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tiny_gguf(tmp_path), tmp_path / "cache"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))  # the disk gives way half-way
    try:
        with pytest.raises(BackboneError, match="there is no room for it in"):
            converted(spec(path), cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left_in(cache) == []
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(BackboneError, match=r"takes 0\.06 GiB in .*, where 0\.00 GiB are free"):
        converted(spec(path), cache)
    assert left_in(cache) == []


def test_a_state_of_a_file_is_known_by_more_than_its_name(tmp_path: Path) -> None:
    path, cache = tiny_gguf(tmp_path), tmp_path / "cache"
    first = converted(spec(path), cache)
    write_gguf(tmp_path / "checkpoint", path, Kind.Q8_0)
    assert converted(spec(path), cache) != first
