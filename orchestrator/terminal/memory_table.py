"""Makes the table of what trials need of a GPU, which `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from orchestrator.forecast.memory import Memory, memory
from orchestrator.forecast.placement import (
    USABLE,
    gpus_for,
    placement,
    rows_within,
    trials_per_gpu,
)
from orchestrator.planning.trial_spec import TrialSpec
from orchestrator.settings.sharing import Sharing

SIZES = (24.0, 48.0, 80.0)  # GiB of cards that one rents: RTX 3090 and 4090, A6000, A100 and H100
_ALIKE = 0.05  # of a step's memory; arms that differ by less share a line


@dataclass
class _Line:
    """Arms of one method and backbone that need about the same; the neediest one's numbers."""

    method: str
    backbone: str
    need: Memory
    num_arms: int = 1

    def is_like(self, spec: TrialSpec, need: Memory) -> bool:
        margin = _ALIKE * self.need.step_gib
        return (self.method, self.backbone) == _names(spec) and all(
            abs(own - other) <= margin
            for own, other in zip(_numbers(self.need), _numbers(need), strict=True)
        )


def memory_table(specs: Iterable[TrialSpec], sharing: Sharing) -> Table | None:
    """A line for all arms that need about the same; None where no trial would use a GPU.

    Args:
        specs: The trials of a plan; of each arm one counts.
        sharing: How they use GPUs; its size of a GPU is shown beside the usual ones.
    """
    arms = {(spec.arm, *_names(spec)): spec for spec in specs}
    needs = [(s, memory(s)) for s in arms.values() if placement(s, None, sharing).gpu]
    needs.sort(key=lambda each: (*_names(each[0])[::-1], -each[1].peak_gib))
    lines: list[_Line] = []
    for spec, need in needs:
        for line in lines:
            if line.is_like(spec, need):
                line.num_arms += 1
                break
        else:
            lines.append(_Line(*_names(spec), need))
    return _table(lines, sharing) if lines else None


def _table(lines: Iterable[_Line], sharing: Sharing) -> Table:
    sizes = sorted({*SIZES, sharing.gpu_gib})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("memory, GiB")
    for heading in ("arms", "step", "made once", "checkpoint (host)"):
        table.add_column(heading, justify="right")
    for size in sizes:
        table.add_column(f"GPU of {size:g}", overflow="fold")
    for line in lines:
        need = line.need
        table.add_row(
            f"{line.method} on {line.backbone}",
            str(line.num_arms),
            f"{need.step_gib:.1f}",
            f"{need.once_gib:.1f}" if need.once_gib else "-",
            f"{need.checkpoint_gib:.1f}",
            *(_fit(need, size) for size in sizes),
        )
    return table


def _fit(need: Memory, gpu_gib: float) -> str:
    """How many trials share a GPU, or how many rows of one run there at a time, or what to type."""
    if trials := trials_per_gpu(need, gpu_gib):
        return f"{trials} trial{'s' if trials > 1 else ''}"
    if rows := rows_within(need, USABLE * gpu_gib):
        return f"1 trial, {rows} of {need.rows:.0f} rows at a time"
    return f"parallel=shard gpus_per_trial={max(2, gpus_for(need, gpu_gib))}"


def _names(spec: TrialSpec) -> tuple[str, str]:
    return str(spec.method["name"]), str(spec.backbone["name"])


def _numbers(need: Memory) -> tuple[float, ...]:
    return need.step_gib, need.once_gib, need.least_gib, need.checkpoint_gib
