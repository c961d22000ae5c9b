"""A checkpoint is whole, or refused in one line that names what is wrong: before Ray, and later."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import FAMILIES, save_tiny
from tests.unit.damage import OF_FILES, OF_WEIGHTS, WEIGHTS, change, cut, down, store, tensors
from tests.unit.file_trials import spec, write, zsre_line
from trainables.backbones.checkpoints.checkpoint import examine, fingerprint
from trainables.backbones.loading import load_backbone
from trainables.edits import embedded as world
from trainables.errors import BackboneError
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to break, of each family."""
    return Path(shutil.copytree(checkpoints[request.param], tmp_path / "copy"))


@pytest.fixture
def llama_folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "copy"))


def split_in_two(folder: Path) -> None:
    """The same weights in two files with an index."""
    held = tensors(folder)
    names = sorted(held)
    half = len(names) // 2
    places = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: held[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def rewrite(file: Path, old: bytes, new: bytes) -> None:
    """Other bytes in place, without a trace in size, time or place of the file."""
    state, whole = file.stat(), file.read_bytes()
    assert whole.count(old) == 1
    assert len(old) == len(new)
    with file.open("r+b") as stream:
        stream.write(whole.replace(old, new))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def validated(folder: Path, tmp_path: Path, **protocol: bool) -> Validator:
    data = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    validator = Validator(tmp_path / "cache")
    validator.validate(TrialSpec.parse(spec(folder, "zsre", data, **protocol)))
    return validator


@pytest.mark.parametrize("damage", OF_WEIGHTS)
def test_damage_to_weights_is_refused_by_the_driver_and_by_every_load(
    damage: str, folder: Path, tmp_path: Path
) -> None:
    assert_refused(folder, OF_WEIGHTS[damage](folder), tmp_path)


@pytest.mark.parametrize("damage", OF_FILES)
def test_damage_to_files_is_refused_by_the_driver_and_by_every_load(
    damage: str, llama_folder: Path, tmp_path: Path
) -> None:
    assert_refused(llama_folder, OF_FILES[damage](llama_folder), tmp_path)


def assert_refused(folder: Path, words: list[str], tmp_path: Path) -> None:
    for refuse in (lambda: validated(folder, tmp_path), lambda: load_backbone(folder)):
        with pytest.raises(BackboneError) as caught:
            refuse()
        message = str(caught.value)
        assert [word for word in words if word not in message] == [], message
        assert len(message.splitlines()) == 1
        assert len(message) < 500


def test_undamaged_is_whole_with_no_word(folder: Path, tmp_path: Path) -> None:
    assert validated(folder, tmp_path).warnings == []


def test_load_when_the_driver_could_not_see_the_damage_then_refused_all_the_same(
    llama_folder: Path, tmp_path: Path
) -> None:
    # a name is changed in place, and time, size and place of the file stay: what is kept is
    # believed, and transformers would fill the weight at random
    examine(llama_folder, tmp_path)
    rewrite(llama_folder / WEIGHTS, b"layers.1.mlp.down_proj", b"layers.1.mlp.town_proj")
    examine(llama_folder, tmp_path)
    with pytest.raises(BackboneError, match=r"holds no tensor 'model\.layers\.1\.mlp\.down_proj"):
        load_backbone(llama_folder, cache=tmp_path)


def test_weights_in_two_files_then_the_file_of_a_missing_tensor_is_named(folder: Path) -> None:
    split_in_two(folder)
    whole = load_backbone(folder).model.state_dict()
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    file = folder / index[down(folder)]
    held = load_file(file)
    assert whole[down(folder)].equal(held.pop(down(folder)))
    save_file(held, file)
    with pytest.raises(BackboneError, match=rf"{file.name} holds no tensor .*down|{file.name}.*"):
        examine(folder)


def test_a_tensor_in_two_files_is_refused(llama_folder: Path) -> None:
    split_in_two(llama_folder)
    first, second = sorted(llama_folder.glob("*.safetensors"))
    save_file(load_file(second) | load_file(first), second)
    with pytest.raises(BackboneError, match=rf"stands in {first.name} and in {second.name}"):
        examine(llama_folder)


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_checkpoint_of_the_model_without_its_head_is_whole(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints[family], tmp_path / "copy"))
    whole = load_backbone(folder).model.state_dict()
    bare = {name.removeprefix("transformer."): value for name, value in tensors(folder).items()}
    store(folder, bare)
    again = load_backbone(folder).model.state_dict()
    assert all(value.equal(again[name]) for name, value in whole.items())
    del bare[down(folder).removeprefix("transformer.")]
    store(folder, bare)
    with pytest.raises(BackboneError, match="holds no tensor"):
        examine(folder)


@pytest.mark.parametrize(
    ("family", "head"),
    [("gpt_neox", "embed_out.weight"), ("gptj", "lm_head.weight"), ("phi3", "lm_head.weight")],
)
def test_a_head_of_its_own_is_loaded_and_looked_at(family: str, head: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path / "model", tie_word_embeddings=False)
    held = tensors(folder)
    model = load_backbone(folder).model
    assert torch.equal(model.get_output_embeddings().weight, held[head])  # type: ignore[operator]
    held[head][2, 3] = torch.nan
    store(folder, held)
    with pytest.raises(BackboneError, match=rf"tensor '{head}' in .* not finite"):
        examine(folder)


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("gpt2", "transformer.h.0.attn.bias", torch.ones(1, 1, 64, 64, dtype=torch.bool)),
        ("gpt2", "transformer.h.0.attn.masked_bias", torch.tensor(-1e4)),
        ("gpt2", "transformer.h.0.attn.masked_bias", torch.tensor(float("-inf"))),
        ("gptj", "transformer.h.0.attn.bias", torch.ones(1, 1, 64, 64, dtype=torch.bool)),
        ("gptj", "transformer.h.0.attn.masked_bias", torch.tensor(-1e9)),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias", torch.ones(1, 1, 64, 64) == 1),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias", torch.tensor(-1e9)),
        ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq", torch.ones(1)),
        ("llama", "lm_head.weight", None),
        ("gpt2", "lm_head.weight", None),
    ],
)
def test_what_older_checkpoints_hold_besides_is_no_fault(
    family: str,
    name: str,
    value: torch.Tensor | None,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(checkpoints[family], tmp_path / "copy"))
    held = tensors(folder)
    embedding = next(v for k, v in held.items() if "embed_" in k or "wte" in k)
    store(folder, {**held, name: embedding.clone() if value is None else value})
    load_backbone(folder)


def test_dtype_when_a_weight_is_beyond_its_range_then_refused(
    llama_folder: Path, tmp_path: Path
) -> None:
    held = tensors(llama_folder)
    held[down(llama_folder)].view(-1)[0] = 70000.0  # float16 ends at 65504
    store(llama_folder, held)
    load_backbone(llama_folder, dtype="bfloat16")
    data = write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(llama_folder, "zsre", data)
    wanted["backbone"]["dtype"] = "float16"
    for refuse in (
        lambda: Validator(tmp_path).validate(TrialSpec.parse(wanted)),
        lambda: load_backbone(llama_folder, dtype="float16"),
    ):
        with pytest.raises(BackboneError, match=r"dtype=float16: .*down_proj.* holds 70000"):
            refuse()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_dtype_does_not_matter_and_is_searched_too(
    llama_folder: Path, dtype: torch.dtype
) -> None:
    held = {name: value.to(dtype) for name, value in tensors(llama_folder).items()}
    store(llama_folder, held)
    assert load_backbone(llama_folder).model.dtype == torch.float32
    held[down(llama_folder)].view(-1)[5] = float("nan")
    store(llama_folder, held)
    with pytest.raises(BackboneError, match="not finite"):
        examine(llama_folder)


def test_adapter_beside_the_weights_is_said_and_is_no_weight(
    llama_folder: Path, tmp_path: Path
) -> None:
    before = fingerprint(llama_folder)
    config = {"base_model_name_or_path": "somewhere/else", "peft_type": "LORA", "r": 8}
    (llama_folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x.lora_A.weight": torch.ones(2, 2)}, llama_folder / "adapter_model.safetensors")
    (said,) = validated(llama_folder, tmp_path).warnings
    assert "adapter_config.json" in said
    assert "not applied" in said
    assert fingerprint(llama_folder) == before
    (llama_folder / WEIGHTS).unlink()
    with pytest.raises(BackboneError, match=r"holds an adapter without model\.safetensors"):
        examine(llama_folder)


def test_tokenizer_without_end_token_is_refused_where_one_is_needed(
    llama_folder: Path, tmp_path: Path
) -> None:
    change(llama_folder / "tokenizer_config.json", eos_token=None)
    validated(llama_folder, tmp_path, target_ends_with_eos=False)
    for key in ("target_ends_with_eos", "generate"):
        with pytest.raises(BackboneError, match=rf"protocol\.{key}=true: .* no end token"):
            validated(llama_folder, tmp_path, **{"target_ends_with_eos": False, key: True})


def test_embedded_backbone_that_is_damaged_then_the_remedy_is_named(
    llama_folder: Path, tmp_path: Path
) -> None:
    made = world.EMBEDDED["facts_tiny"]
    key = world._key(made.recipe, world._material("facts_tiny", made, None))[:16]
    cut(llama_folder)
    shutil.copytree(llama_folder, tmp_path / "backbones" / f"facts_tiny-{key}")
    with pytest.raises(BackboneError, match=r"cut short.*without that folder it is trained anew"):
        Validator(tmp_path).validate(
            TrialSpec.parse(spec(Path("embedded:facts_tiny"), "facts", None))
        )


def test_larger_embedding_than_tokenizer_is_no_fault(llama_folder: Path) -> None:
    held = tensors(llama_folder)
    embedding = held["model.embed_tokens.weight"]
    held["model.embed_tokens.weight"] = torch.cat([embedding, embedding[:64]])
    store(llama_folder, held)
    change(llama_folder / "config.json", vocab_size=len(embedding) + 64)
    examine(llama_folder)


def test_examine_when_the_folder_is_read_only_then_nothing_is_written_there(
    folder: Path, tmp_path: Path
) -> None:
    def content() -> list[tuple[str, int, int]]:
        states = [(path.name, path.stat()) for path in [folder, *folder.iterdir()]]
        return sorted((name, state.st_size, state.st_mtime_ns) for name, state in states)

    folder.chmod(0o555)
    before = content()
    try:
        validated(folder, tmp_path)
        load_backbone(folder, cache=tmp_path / "cache")
        assert content() == before
    finally:
        folder.chmod(0o755)
    assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 1


def test_examine_when_kept_then_the_weights_are_not_read_again(
    llama_folder: Path, tmp_path: Path
) -> None:
    first = examine(llama_folder, tmp_path)
    file = llama_folder / WEIGHTS
    some = tensors(llama_folder)[down(llama_folder)].numpy().tobytes()[:16]
    rewrite(file, some, b"\1" + some[1:])
    assert examine(llama_folder, tmp_path) == first
    assert examine(llama_folder).fingerprint != first.fingerprint
    os.utime(file)
    assert examine(llama_folder, tmp_path).fingerprint != first.fingerprint


def test_examine_when_a_file_is_replaced_by_one_of_the_same_size_and_time_then_read_again(
    llama_folder: Path, tmp_path: Path
) -> None:
    first = examine(llama_folder, tmp_path)
    file, aside = llama_folder / WEIGHTS, tmp_path / "aside"
    shutil.copy2(file, aside)
    with aside.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\0\0\0\1")
    state = file.stat()
    os.utime(aside, ns=(state.st_atime_ns, state.st_mtime_ns))
    aside.replace(file)
    assert examine(llama_folder, tmp_path).fingerprint != first.fingerprint


def test_kept_result_that_is_torn_is_found_anew(llama_folder: Path, tmp_path: Path) -> None:
    first = examine(llama_folder, tmp_path)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    for torn in ("", "{", "[]", '{"fingerprint": "00"}'):
        kept.write_text(torn)
        assert examine(llama_folder, tmp_path) == first


def test_fingerprint_of_a_copy_is_the_same_and_so_without_files_that_decide_nothing(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    (copy / "generation_config.json").unlink(missing_ok=True)
    (copy / "consolidated.safetensors").write_bytes(b"another program's")
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    os.utime(copy / WEIGHTS, (1, 1))
    assert fingerprint(copy) == fingerprint(folder)
