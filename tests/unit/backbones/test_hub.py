"""A model id is a folder of the hub's cache, or refused at once; nothing here asks the network."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub
import pytest

from tests.unit.file_trials import spec, write, zsre_line
from trainables.backbones.checkpoints.checkpoint import fingerprint
from trainables.backbones.checkpoints.hub import checkpoint_folder
from trainables.backbones.loading import load_backbone
from trainables.errors import BackboneError
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator

MODEL, COMMIT = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint as the hub's own program lays it down: a link for each file."""
    root = tmp_path / "hub" / "models--someone--tiny"
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (root / "blobs").mkdir()
    for number, path in enumerate(sorted(checkpoints["llama"].iterdir())):
        shutil.copy(path, root / "blobs" / str(number))
        (folder / path.name).symlink_to(Path("../../blobs") / str(number))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that takes no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.mark.usefixtures("nobody")
def test_id_in_the_cache_is_its_folder_and_the_same_as_a_copy_of_it(
    snapshot: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(Path(MODEL), "zsre", data)
    wanted["backbone"]["revision"] = COMMIT
    found = Validator(tmp_path / "cache").validate(TrialSpec.parse(wanted))
    assert found["backbone_fingerprint"] == fingerprint(checkpoints["llama"])
    loaded, copy = load_backbone(MODEL, revision=COMMIT), load_backbone(checkpoints["llama"])
    assert loaded.fingerprint == copy.fingerprint
    assert loaded.model.state_dict()["model.norm.weight"].equal(
        copy.model.state_dict()["model.norm.weight"]
    )


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_id_of_which_a_part_is_cached_is_refused_where_the_rest_is_not_to_be_had(
    snapshot: Path, name: str
) -> None:
    (snapshot / name).unlink()
    with pytest.raises(BackboneError, match=r"cannot be reached .*backbone\.model=FOLDER"):
        checkpoint_folder(MODEL, COMMIT)


@pytest.mark.usefixtures("snapshot", "nobody")
def test_id_that_nobody_has_is_refused_in_one_line_that_names_it() -> None:
    for load in (checkpoint_folder, lambda model, commit: load_backbone(model, revision=commit)):
        with pytest.raises(BackboneError) as caught:
            load("someone/else", COMMIT)
        message = str(caught.value)
        words = ["someone/else", COMMIT, hub.ENDPOINT, "cache", "backbone.model=FOLDER"]
        assert [word for word in words if word not in message] == [], message
        assert len(message.splitlines()) == 1


@pytest.mark.usefixtures("snapshot", "silent")
def test_hub_that_does_not_answer_is_given_up_soon() -> None:
    begin = time.monotonic()
    with pytest.raises(BackboneError, match="cannot be reached"):
        checkpoint_folder("someone/else", COMMIT, timeout_seconds=0.2)
    assert time.monotonic() - begin < 10  # a download would try for a minute


@pytest.mark.usefixtures("snapshot", "silent")
def test_hub_is_not_asked_when_told_to_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set"):
        checkpoint_folder("someone/else", COMMIT)  # without its 5 seconds


@pytest.mark.parametrize("model", ["/no/such", "./no", "../no"])
def test_folder_that_is_not_there_is_no_id(model: str) -> None:
    with pytest.raises(BackboneError, match="no such folder"):
        checkpoint_folder(model, COMMIT)


@pytest.mark.parametrize("model", ["a/b/c", "a b", "x" * 200])
def test_word_that_can_be_no_id_is_refused(model: str) -> None:
    with pytest.raises(BackboneError, match=r"backbone\.model="):
        checkpoint_folder(model, COMMIT)
