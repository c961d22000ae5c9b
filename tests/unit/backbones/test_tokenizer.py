"""The tokenizer is the one of the folder's own tokenizer.json, whatever else is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.conftest import FAMILIES
from tests.unit.damage import change
from trainables.backbones.tokenizer import load_tokenizer, tokenizer_identity
from trainables.errors import BackboneError

ROOT = Path(__file__).resolve().parents[3]
TEXTS = (
    "The capital of Fooland is",
    " Who  was born in 1998?\n",
    "Antonín Holý's «tide» don't, 12,345",
)


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """A copy without what save_pretrained of the tokenizer wrote besides."""
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "copy"))


def own_ids(folder: Path) -> list[list[int]]:
    """What the file itself says, read by the library that wrote it."""
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [core.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "declared", ["LlamaTokenizer", "Qwen2TokenizerFast", "GPT2TokenizerFast", "NoSuchTokenizer"]
)
def test_ids_are_those_of_the_file_whatever_class_is_declared(
    family: str, declared: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints[family], tmp_path / "copy"))
    change(folder / "tokenizer_config.json", tokenizer_class=declared, auto_map={"a": "b"})
    tokenizer = load_tokenizer(folder)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == own_ids(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<s>", 2)
    version_of_ids = f"TokenizersBackend, tokenizers {version('tokenizers')}"
    assert tokenizer_identity(folder, tokenizer) == version_of_ids


def test_ids_when_lengths_were_fixed_on_saving_then_no_text_is_cut_or_filled(folder: Path) -> None:
    whole = own_ids(folder)
    few = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    change(folder / "tokenizer.json", truncation=few, padding=fill)
    tokenizer = load_tokenizer(folder)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == whole


def test_ids_when_mistral_common_is_installed_then_the_same(folder: Path, tmp_path: Path) -> None:
    # with it, transformers takes a folder with a tekken.json for another kind of tokenizer
    (folder / "tekken.json").write_text("{}")
    change(folder / "config.json", model_type="mistral")
    change(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    package = tmp_path / "packages"
    (package / "mistral_common").mkdir(parents=True)
    (package / "mistral_common" / "__init__.py").write_text("raise RuntimeError('was used')")
    (package / "mistral_common-1.13.1.dist-info").mkdir()
    (package / "mistral_common-1.13.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mistral-common\nVersion: 1.13.1\n"
    )
    script = (
        "import json, sys; from pathlib import Path\n"
        "from transformers.utils import is_mistral_common_available\n"
        "assert is_mistral_common_available()\n"
        "from trainables.backbones.tokenizer import load_tokenizer\n"
        "tokenizer = load_tokenizer(Path(sys.argv[1]))\n"
        "print(json.dumps([tokenizer(text)['input_ids'] for text in json.loads(sys.argv[2])]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), json.dumps(TEXTS)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert json.loads(done.stdout) == own_ids(folder)


def test_tokenizer_when_there_are_vocabulary_and_merges_alone_then_converted(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints["gpt2"], tmp_path / "copy"))
    expected = [ids[1:] for ids in own_ids(folder)]  # without the begin token, which no file names
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    change(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(BackboneError, match="holds no tokenizer"):
        load_tokenizer(folder)  # merges by id would be other tokens
    merges = (" ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = load_tokenizer(folder)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == expected
    known = f"GPT2Tokenizer, tokenizers {version('tokenizers')}"
    assert tokenizer_identity(folder, tokenizer) == (
        f"{known}, transformers {version('transformers')}"
    )


@pytest.mark.parametrize(
    ("name", "package"), [("tokenizer.model", "sentencepiece"), ("tekken.json", "mistral-common")]
)
def test_tokenizer_that_needs_a_package_then_it_is_named(
    folder: Path, name: str, package: str
) -> None:
    try:
        version(package)
    except PackageNotFoundError:
        pass
    else:
        pytest.skip(f"{package} is installed")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02")
    with pytest.raises(BackboneError) as caught:
        load_tokenizer(folder)
    words = [name, f"without the package {package}", "tokenizer.json"]
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_decode_when_a_clean_up_is_asked_for_then_no_blank_is_taken_away(folder: Path) -> None:
    change(folder / "tokenizer_config.json", clean_up_tokenization_spaces=True)  # as Llama 3's
    tokenizer = load_tokenizer(folder)
    # transformers warns of the wish in every process, and releases before it did obey
    assert tokenizer.clean_up_tokenization_spaces is False
    text = "Who 's born , do n't ask ?"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
