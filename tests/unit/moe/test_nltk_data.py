"""What identifies NLTK's data, and trials that need them; the files here are made up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, get_args

import nltk
import pytest

from orchestrator.planning.cell import Resolved
from tests.unit.file_trials import spec, write, zsre_line
from trainables.bases import read_method
from trainables.errors import ConfigError
from trainables.methods import method_settings
from trainables.moe.nltk_data import _FILES, _PACKAGES, FOLDER, NltkData, check, fetch, identity
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator


@pytest.fixture(autouse=True)
def _without_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])


def made_up(folder: Path, which: NltkData, text: str = "x") -> Path:
    for name in _FILES[which]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def alone(monkeypatch: pytest.MonkeyPatch, which: NltkData, folder: Path) -> str:
    monkeypatch.setattr(nltk.data, "path", [])
    return identity((which,), folder)


def test_identity_then_it_is_that_of_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = alone(monkeypatch, "chunker", made_up(tmp_path / "a", "chunker"))
    assert first == alone(monkeypatch, "chunker", made_up(tmp_path / "b", "chunker"))
    assert first.startswith(f"nltk {nltk.__version__} ")
    (tmp_path / "b" / "corpora/words/en-basic").write_text("y")
    assert first != alone(monkeypatch, "chunker", tmp_path / "b")
    packed = made_up(tmp_path / "c", "chunker")
    word_list = packed / "corpora" / "words" / "en-basic"
    with zipfile.ZipFile(packed / "corpora" / "words.zip", "w") as archive:
        archive.write(word_list, "words/en-basic")
    word_list.unlink()
    assert first == alone(monkeypatch, "chunker", packed)
    assert identity((), None) == ""


def test_check_when_data_lie_open_or_packed_then_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "named"
    for place in (folder, None):  # where a cache is, and where NLTK_DATA points to
        monkeypatch.setenv(
            "NLTK_DATA", "" if place else f"{tmp_path / 'nowhere'}{os.pathsep}{folder}"
        )
        made_up(folder, "chunker")
        check(("chunker",), place)
        check((), place)
        with pytest.raises(ConfigError, match="make nltk"):
            check(("chunker", "wordnet"), place)
    word_list = folder / "corpora" / "words" / "en-basic"
    with zipfile.ZipFile(folder / "corpora" / "words.zip", "w") as archive:
        archive.write(word_list, "words/en-basic")
    word_list.unlink()
    check(("chunker",), folder)


def test_check_when_a_package_is_a_zip_file_then_nltk_is_not_imported(tmp_path: Path) -> None:
    """Its import takes seconds, which a dry run has not."""
    folder = made_up(tmp_path / "nltk_data", "chunker")
    word_list = folder / "corpora" / "words" / "en-basic"
    with zipfile.ZipFile(folder / "corpora" / "words.zip", "w") as archive:
        archive.write(word_list, "words/en-basic")
    word_list.unlink()
    code = (
        "import sys\nfrom pathlib import Path\nfrom trainables.moe import nltk_data\n"
        "nltk_data.check(('chunker',), Path(sys.argv[1]))\nprint('nltk' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "NLTK_DATA": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("which", "key", "other"),
    [
        ("chunker", "method.anchor_source", "method.anchor_source=subject"),
        ("wordnet", "method.meteor_synonyms", "method.meteor_synonyms=none"),
    ],
)
def test_identity_when_one_file_is_missing_then_setting_and_remedies_are_named(
    tmp_path: Path, which: NltkData, key: str, other: str
) -> None:
    made_up(tmp_path, which)
    (tmp_path / _FILES[which][-1]).unlink()
    with pytest.raises(ConfigError, match=f"{re.escape(key)} is .*make nltk.*{re.escape(other)}"):
        identity((which,), tmp_path)


def trial(module: str, folder: Path, path: Path | None = None, **changes: Any) -> dict[str, Any]:
    values = read_method(module)
    found = spec(folder, "zsre", path)
    found["method"] = {"name": module, "module": module, **method_settings(values), **changes}
    return found


@pytest.mark.parametrize(
    ("module", "changes", "is_read"),
    [
        ("memoe_v1", {}, "make nltk"),
        ("memoe_v1", {"routing_input": "anchor_only"}, "make nltk"),
        ("memoe_v1", {"routing_input": "sentence"}, ""),
        ("memoe_v1", {"anchor_source": "subject"}, ""),
        ("lemoe", {"embedding": "entity"}, "make nltk"),
        ("lemoe", {"routing": "knowledge_anchor"}, "make nltk"),
        ("lemoe", {"routing": "knowledge_anchor", "anchor_source": "subject"}, ""),
        ("lemoe", {}, ""),
        ("memoe_v2", {"meteor_synonyms": "wordnet"}, "make nltk"),
        ("memoe_v2", {}, ""),
    ],
)
def test_validator_when_data_of_nltk_are_missing_then_what_reads_them_is_refused(
    tmp_path: Path, module: str, changes: dict[str, Any], is_read: str
) -> None:
    wanted = trial(module, tmp_path / "no_model", **changes)
    # Without a model and data the others fail later: what is missing of NLTK is said before.
    with pytest.raises(Exception, match=is_read or "no_model|dataset.path"):
        Validator(tmp_path).validate(TrialSpec.parse(wanted))


def test_validator_when_the_data_are_other_ones_then_so_is_the_trial(
    tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(40)])
    wanted = trial("memoe_v1", checkpoints["llama"], path, edit_layer=2)
    found = []
    for text in ("x", "y"):
        monkeypatch.setattr(nltk.data, "path", [])
        made_up(tmp_path / FOLDER, "chunker", text)
        found.append(Resolved(**Validator(tmp_path).validate(TrialSpec.parse(wanted))).identity)
    assert found[0]["method_data"] != found[1]["method_data"]
    plain = Resolved(
        **Validator(tmp_path).validate(TrialSpec.parse(spec(checkpoints["llama"], "zsre", path)))
    )
    assert "method_data" not in plain.identity  # the name of every other result stays


def test_fetch_then_everything_that_is_read_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(package: str, download_dir: str) -> bool:
        asked.append(package)
        for which in get_args(NltkData):
            for name in _FILES[which]:
                if name.split("/")[1] == package:
                    (Path(download_dir) / name).parent.mkdir(parents=True, exist_ok=True)
                    (Path(download_dir) / name).write_text(package)
        return True

    monkeypatch.setattr(nltk, "download", download)
    fetch(tmp_path / "cache" / FOLDER)
    assert asked == list(_PACKAGES)
    assert identity(get_args(NltkData), tmp_path / "cache" / FOLDER)
    monkeypatch.setattr(nltk, "download", lambda package, download_dir: False)
    with pytest.raises(ConfigError, match=f"{_PACKAGES[0]} could not be fetched into"):
        fetch(tmp_path / "other")
