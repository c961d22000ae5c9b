"""The file that `--new` writes runs as it stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator import sweep
from orchestrator.errors import UsageError
from orchestrator.planning.plan import expand
from orchestrator.settings.loading import load
from orchestrator.settings.new_ablation import write_ablation
from orchestrator.settings.yaml_files import FOLDER, SearchSpaces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "search_spaces"))


@pytest.mark.parametrize(("scale", "num_trials"), [("quick", 4), ("paper", 6)])
def test_new_then_the_file_is_a_plan_with_a_question(
    folder: Path, scale: str, num_trials: int
) -> None:
    path = write_ablation("my_question", SearchSpaces(folder))
    assert path == folder / "ablation" / "my_question.yaml"
    plan = expand(load(["ablation=my_question", f"scale={scale}"], folder))
    assert len(plan.trials) == num_trials  # 2 numbers of experts, 2 or 3 seeds
    assert SearchSpaces(folder).question("my_question").startswith("Which number of experts")
    assert "ablation=my_question --dry-run" in path.read_text("utf-8")


@pytest.mark.parametrize("name", ["Mine", "my-name", "../mine", "", "1st"])
def test_new_when_the_name_is_none_for_a_file_then_it_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="small letters, digits and _"):
        write_ablation(name, SearchSpaces(folder))


def test_new_when_there_is_such_an_ablation_then_it_is_kept(folder: Path) -> None:
    before = (folder / "ablation" / "lemoe_lora.yaml").read_text("utf-8")
    with pytest.raises(UsageError, match="there is such an ablation"):
        write_ablation("lemoe_lora", SearchSpaces(folder))
    assert (folder / "ablation" / "lemoe_lora.yaml").read_text("utf-8") == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--new", "lemoe_lora"], "there is such an ablation"),
        (["--new", "x", "seeds=[0]"], "nothing else counts with --new"),
        (["--explain", "seeds", "seeds=[0]"], "without ablation=NAME nothing else counts"),
        (["--explain", "sedes"], "'seeds'"),
        (["--new", "x", "--list"], "not allowed with"),
    ],
)
def test_command_when_typed_wrong_then_one_line_names_it(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
