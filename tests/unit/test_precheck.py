"""What a dry run accepts a sweep accepts, and both refuse the rest in the same words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nltk
import pytest

from orchestrator.errors import UsageError
from orchestrator.planning import plan
from orchestrator.running import launch
from orchestrator.settings import loading as config
from orchestrator.settings.yaml_files import REPOSITORY
from orchestrator.store.settled import Options
from orchestrator.terminal.dry_run import dry_run
from orchestrator.terminal.waiting import Waiting
from tests.unit.file_trials import write, zsre_line

LORA = "ablation=lemoe_lora"
SEARCH = ["ablation=lemoe_search", "scheduler=fifo"]
DRAWN = ["ablation=smoke", "plan=search", "num_trials=4"]
RATES = "axes={method.edit_lr:{distribution:uniform,low:1e-3,high:1}}"
SMALLEST = "axes.method.edit_lr={distribution:uniform,low:0,high:1}"


def made(tmp_path: Path, *typed: str) -> plan.Plan:
    return plan.expand(config.load([*typed, f"store={tmp_path / 'store'}"]))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write(tmp_path / "zsre.jsonl", [zsre_line(number) for number in range(20)])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([LORA, "axes.method.edit_lr=[1e-3,-1]"], "method.edit_lr is -1; it must be above 0 (axis"),
        ([LORA, "method.edit_lr=-1"], "method.edit_lr is -1; it must be above 0"),
        ([LORA, "method.expert=lorra"], "method.expert is 'lorra'; allowed: ffn, lora"),
        ([LORA, "method.lora_alpha=high"], "'high'; it must be a finite number or null"),
        ([LORA, "method.edit_layer=null"], "method.edit_layer is None; it must be a whole number"),
        (
            ["ablation=memoe_constants", "axes.method.head_share=[0.2,3]"],
            "method.head_share is 3; it must lie in [0, 1] (axis method.head_share)",
        ),
        (["ablation=lemoe_search", SMALLEST], "method.edit_lr is 0; it must be above 0 (axis"),
        (["ablation=lemoe_search", "axes.method.expert=[lora,mlp]"], "method.expert is 'mlp'"),
        (
            ["ablation=lemoe_batch", "method=memit", "method.covariance_text=/nowhere.txt"],
            "method.covariance_text is '/nowhere.txt'; there is no such file",
        ),
        (
            [*SEARCH, "scheduler.metric=stale_rate"],
            "compares stale_rate; it is measured with protocol.kind=serial alone",
        ),
        (
            [*DRAWN, "method=ft_m", RATES, "scheduler.metric=routing_purity"],
            "compares routing_purity; method=ft_m routes nothing",
        ),
        (
            [*SEARCH, "scheduler.metric=retention.token", "protocol.kind=batch"],
            "compares retention.token; protocol.kind=batch rolls back after every batch",
        ),
        (["ablation=smoke", "dataset.frequency_band=[0.5]"], "dataset.frequency_band is [0.5]"),
        (["ablation=smoke", "dataset=zsre", "protocol.num_edits=30"], "30"),
    ],
)
def test_precheck_when_something_cannot_work_then_dry_run_and_sweep_say_the_same(
    tmp_path: Path, questions: Path, typed: list[str], words: str
) -> None:
    if "dataset=zsre" in typed:
        typed = [*typed, "backbone=facts_zsre", f"dataset.path={questions}"]
    wrong = made(tmp_path, *typed)
    with pytest.raises(UsageError) as dry:
        dry_run(wrong, Options())
    with pytest.raises(UsageError) as run:
        launch.run(wrong, Options(), Waiting(""))
    assert words in str(dry.value)
    assert str(dry.value) == str(run.value)
    assert not (tmp_path / "store").exists()


def test_precheck_when_all_is_well_then_torch_is_not_imported_and_nothing_written(
    tmp_path: Path, questions: Path
) -> None:
    code = (
        "import sys\n"
        "from orchestrator.planning import plan\n"
        "from orchestrator.settings import loading as config\n"
        "from orchestrator.terminal.dry_run import dry_run\n"
        "from orchestrator.store.settled import Options\n"
        "for typed in (['ablation=lemoe_lifelong'], ['ablation=smoke', 'backbone=facts_zsre',\n"
        "              'dataset=zsre', 'dataset.path=zsre.jsonl']):\n"
        "    dry_run(plan.expand(config.load(typed)), Options())\n"
        "heavy = ('torch', 'ray', 'mlflow', 'numpy', 'sklearn', 'hydra', 'asyncio')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert [path.name for path in tmp_path.iterdir()] == [questions.name]


def test_precheck_when_data_of_nltk_are_missing_then_a_dry_run_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.delenv("NLTK_DATA", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    typed = ["ablation=smoke", "axes.method=[memoe_v1]"]
    with pytest.raises(UsageError, match=r"^method\.anchor_source is 'entity'; .*make nltk"):
        dry_run(made(tmp_path, *typed, "method.anchor_source=entity"), Options())
    dry_run(made(tmp_path, *typed), Options())  # the preset of the embedded backbone says subject


@pytest.mark.parametrize("ablation", ["presets", "everyone", "trained_editors"])
def test_dry_run_of_an_ablation_over_methods_then_none_is_refused(
    ablation: str, tmp_path: Path
) -> None:
    dry_run(made(tmp_path, f"ablation={ablation}"), Options())
