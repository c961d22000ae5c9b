import subprocess
from pathlib import Path

from orchestrator.provenance import installed_packages, provenance, source_hash


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


def test_installed_packages_names_versions() -> None:
    assert any(line.startswith("torch==2") for line in installed_packages().splitlines())
