import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.store.provenance import (
    installed_packages,
    keep_packages,
    kept_packages,
    provenance,
    source_hash,
)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_provenance_tells_commit_and_changes(tmp_path: Path) -> None:
    (tmp_path / "trainables").mkdir()
    code = tmp_path / "trainables" / "code.py"
    code.write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    clean = provenance(tmp_path)
    assert clean["commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert clean["is_dirty"] == "false"
    code.write_text("x = 2\n")
    changed = provenance(tmp_path)
    assert changed["is_dirty"] == "true"
    assert changed["source_hash"] != clean["source_hash"]


def test_provenance_outside_a_checkout_says_unknown(tmp_path: Path) -> None:
    assert provenance(tmp_path)["commit"] == "unknown"


def test_source_hash_depends_on_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    first = source_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert source_hash(tmp_path) != first
    (tmp_path / "notes.txt").write_text("not code")
    renamed = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("other notes")
    assert source_hash(tmp_path) == renamed


def test_source_hash_depends_on_the_families_that_the_package_reads(tmp_path: Path) -> None:
    family = tmp_path / "search_spaces" / "family" / "llama.yaml"
    family.parent.mkdir(parents=True)
    (tmp_path / "trainables").mkdir()
    first = source_hash(tmp_path / "trainables")
    family.write_text("down: mlp.down_proj")
    second = source_hash(tmp_path / "trainables")
    family.write_text("down: mlp.up_proj")
    assert len({first, second, source_hash(tmp_path / "trainables")}) == 3


def test_installed_packages_names_versions() -> None:
    assert any(line.startswith("torch==2") for line in installed_packages().splitlines())


def test_packages_are_kept_by_the_digest_that_every_row_bears(tmp_path: Path) -> None:
    digest = provenance()["packages"]
    assert kept_packages(tmp_path, digest) == ""
    for _ in range(2):
        keep_packages(tmp_path, digest)
    assert kept_packages(tmp_path, digest) == installed_packages()
    assert [path.stem for path in (tmp_path / "packages").iterdir()] == [digest]
    (tmp_path / "elsewhere.txt").write_text("not a list of packages")
    assert kept_packages(tmp_path, "../elsewhere") == ""


def test_packages_when_the_store_is_a_file_then_one_line_names_it(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(LedgerError, match=r"store=.*results: cannot write .*packages"):
        keep_packages(tmp_path / "results", "abcd")
