"""What the forecast declares of each method's memory, beside what torch's allocator gave it.

On an exact sixteenth of LLaMA2-7B in width, FFN, vocabulary and edits, with fewer layers: each
number times 256 is that of the large width. All rows at a time, then one row at a time, as where a
GPU is small; at last the records that GECE ranks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.settings.yaml_files import SearchSpaces
from tests.measured_memory import (
    FACTOR,
    Compared,
    compared,
    measured,
    measured_ranking,
    small_llama,
    trial_of,
)

_PART, _LAYERS, _EDITS = 16, 8, 2  # of 30 edits at the full width
_RECORDS = 400
_DTYPES: dict[int | None, str] = {None: "bfloat16", 1: "float32"}  # single rows are slow in it


def memories() -> None:
    """One line per method, stage and number of rows, and the number of misses."""
    print(
        f"memory: 1/{_PART} of LLaMA2-7B, {_LAYERS} layers, {_EDITS} edits, {_RECORDS} records; "
        f"GiB as at the full width, process left out"
    )
    print(f"  {'method':<18}{'rows':<14}{'stage':<12}{'declared':>10}{'measured':>10}{'ratio':>7}")
    misses = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, rows, line in _lines(folder):
            is_far = not 1 / FACTOR < line.ratio < FACTOR
            misses += is_far
            print(
                f"  {method:<18}{rows:<14}{line.name:<12}{line.declared * _PART**2:>10.2f}"
                f"{line.measured * _PART**2:>10.2f}{line.ratio:>7.2f}{'  MISS' if is_far else ''}",
                flush=True,
            )
    print(f"  {misses} misses; demand: none beyond a factor of {FACTOR:g}")


def _lines(folder: Path) -> Iterator[tuple[str, str, Compared]]:
    checkpoint = small_llama(folder / "llama", part=_PART, num_layers=_LAYERS)
    for limit, dtype in _DTYPES.items():
        rows = f"{'all' if limit is None else 'one'}, {dtype}"
        for method in SearchSpaces().names("method"):
            trial = trial_of(method, checkpoint, _EDITS, dtype)
            artefacts = folder / f"{method}-{dtype}"  # empty: all is made
            for line in compared(trial, measured(trial, artefacts, limit), limit):
                yield method, rows, line
        trial = trial_of("no_edit", checkpoint, _EDITS, dtype)
        yield "GECE", rows, measured_ranking(trial, folder / f"gece-{dtype}", _RECORDS, limit)
