"""What a dry run says of memory, on LLaMA2-7B's shape; tests/unit/forecast has the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings import loading as config
from orchestrator.settings.sharing import AS_FITS, Sharing
from orchestrator.terminal.memory_table import memory_table

LARGE = ("ablation=smoke", "backbone=llama2_7b", "protocol.num_edits=30")


def trials(*typed: str) -> Sequence[TrialSpec]:
    made = expand(config.load([*typed, "seeds=[0,1]"])).typical
    for trial in made:
        trial.cost["tokens_per_row"] = 20
    return made


def lines(specs: Sequence[TrialSpec], sharing: Sharing = AS_FITS) -> list[list[str]]:
    """The cells of each line; two blanks or more stand between two."""
    table = memory_table(specs, sharing)
    assert table is not None
    console = Console(width=250)
    with console.capture() as captured:
        console.print(table)
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in captured.get().splitlines()
    ]


def test_memory_table_when_nothing_would_use_a_gpu_then_there_is_none() -> None:
    assert memory_table(trials("ablation=smoke"), AS_FITS) is None


def test_memory_table_when_trials_fit_then_it_says_how_many_share_a_gpu() -> None:
    heading, ft, lemoe = lines(trials(*LARGE, "axes.method=[ft_m,lemoe]"))
    assert heading == [
        *("memory, GiB", "arms", "step", "made once", "checkpoint (host)"),
        *("GPU of 24", "GPU of 48", "GPU of 80"),
    ]
    # two seeds are one arm; 14.9 x 3 are below .98 x 48, x 5 below .98 x 80
    assert ft == [
        *("ft_m on llama2_7b", "1", "14.9", "-", "0.5"),
        *("1 trial", "3 trials", "5 trials"),
    ]
    assert lemoe[0] == "lemoe on llama2_7b"
    assert lemoe[5:] == ["1 trial", "2 trials", "4 trials"]


def test_memory_table_when_rows_are_cut_or_nothing_helps_then_it_says_what_to_type() -> None:
    _, memit, v2 = lines(trials(*LARGE, "axes.method=[memit,memoe_v2]"))
    # prepared with 23.9 GiB, of which 24 GiB are not left; 126 rows of .089 GiB beside 14.6,
    # three times within .98 x 80
    assert memit[1:] == [
        *("1", "25.8", "23.9", "0.8"),
        *("parallel=shard gpus_per_trial=2", "1 trial", "3 trials"),
    ]
    assert v2[5:] == ["parallel=shard gpus_per_trial=2", "1 trial", "3 trials"]
    arm = lines(trials(*LARGE, "method=arm"), Sharing(gpu_gib=22.0))
    assert arm[0][5:] == ["GPU of 22", "GPU of 24", "GPU of 48", "GPU of 80"]
    # 17.7 GiB of .98 x 22, and .017 for each row: 222
    assert arm[1][5:] == ["1 trial, 222 of 330 rows at a time", "1 trial", "2 trials", "3 trials"]


def test_memory_table_when_arms_need_about_the_same_then_they_share_a_line() -> None:
    same = trials(*LARGE, "method=memoe_v1", "axes.method.top_k=[1,2]")
    assert [line[1] for line in lines(same)[1:]] == ["2"]
    apart = trials(*LARGE, "method=memoe_v1", "axes.method.num_experts=[4,2]")
    assert [line[1] for line in lines(apart)[1:]] == ["1", "1"]
