from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.automatic import automatic_dtype, cpu_flags
from orchestrator.planning.plan import expand
from orchestrator.settings import loading as config

NATIVE = frozenset({"avx2", "avx512_bf16"})


@pytest.mark.parametrize(
    ("width", "flags", "dtype", "why"),
    [
        (576, NATIVE, "bfloat16", "this CPU computes in it"),
        (128, NATIVE, "float32", "below a width of 512 bfloat16 is slower"),
        (4096, frozenset({"avx2"}), "float32", "this CPU does not compute in bfloat16"),
    ],
)
def test_dtype_is_bfloat16_where_that_is_faster(
    width: int, flags: frozenset[str], dtype: str, why: str
) -> None:
    assert automatic_dtype(width, flags) == (dtype, why)


@pytest.mark.parametrize("line", ["flags\t\t: fpu amx_bf16", "Features\t: fp asimd bf16"])
def test_flags_are_those_of_the_first_cpu(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: X: 1\n{line}\n\nflags\t: other\n")
    assert cpu_flags(path) == set(line.partition(": ")[2].split())
    assert cpu_flags(tmp_path / "none") == frozenset()


def test_a_plan_holds_the_dtype_that_was_chosen_and_says_why() -> None:
    typed = ["ablation=smoke", "backbone.dtype=auto"]
    made, plain = (expand(config.load(words)).trials[0] for words in (typed, typed[:1]))
    assert made.backbone == plain.backbone  # `facts` is 128 wide
    assert made.origins["backbone.dtype"].source.startswith("auto: ")
    with pytest.raises(UsageError, match="allowed: float32, bfloat16, float16, auto"):
        expand(config.load(["ablation=smoke", "backbone.dtype=int8"]))
