"""What an edit costs late in a stream beside an early one, and the memory of a very large batch."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator, Sequence
from statistics import median

from trainables.interfaces import EditBatch, EditMethod
from trainables.prompts import edit_batch
from trainables.records import Edit, EditRecord
from trainables.spec import TrialSpec
from trainables.trials.workbench import Workbench

STREAM, TURNS = 1000, 40  # edits before those that are timed, and how many are
MOST_GROWTH = 1.5
BATCH, MOST_GIB = 1000, 4.0


def late_edits(bench: Workbench, spec: TrialSpec, name: str) -> None:
    """CPU seconds of an edit after a stream and of the same edit near the beginning, in turns."""
    late, early = bench.loop(spec), bench.loop(spec)
    try:
        tokenizer = bench.backbone(spec).tokenizer
        batches = [
            edit_batch(tokenizer, [edit], end=True)
            for edit in phrased(late.records, STREAM + TURNS)
        ]
        for batch in batches[:STREAM]:
            _seconds(late.method, batch)
        taken = [
            (_seconds(early.method, batch), _seconds(late.method, batch))
            for batch in batches[STREAM:]
        ]
    finally:
        late.close()
        early.close()
    first, last = (median(each) for each in zip(*taken, strict=True))
    print(
        f"  {name}: CPU milliseconds of an edit, median of {TURNS}: {1000 * first:.1f} at the "
        f"beginning, {1000 * last:.1f} after {STREAM}; ratio {last / first:.2f}, demand <= "
        f"{MOST_GROWTH}: {'met' if last / first <= MOST_GROWTH else 'MISS'}",
        flush=True,
    )


def large_batch(bench: Workbench, spec: TrialSpec, name: str) -> None:
    """Peak memory of a process, libraries and backbone included, that edits one large batch."""
    loop = bench.loop(spec)
    try:
        edits = list(phrased(loop.records, BATCH))
        tokenizer = bench.backbone(spec).tokenizer
        seconds = _seconds(loop.method, edit_batch(tokenizer, edits, end=True))
    finally:
        loop.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(
        f"  {name}: {BATCH} edits in one batch, {seconds:.0f} CPU s, peak {peak:.2f} GiB, demand "
        f"<= {MOST_GIB:g}: {'met' if peak <= MOST_GIB else 'MISS'}",
        flush=True,
    )


def phrased(records: Sequence[EditRecord], num: int) -> Iterator[Edit]:
    """`num` edits with different prompts, those of the records and rephrases, in random order.

    Rephrases are longer: behind all others they would look like growth.

    Raises:
        ValueError: If the records have fewer prompts.
    """
    found: dict[str, Edit] = {}
    for prompts in zip(*(_prompts(record) for record in records), strict=False):
        for prompt, record in zip(prompts, records, strict=True):
            found.setdefault(prompt, Edit(prompt, record.target_new, record.subject))
    if len(found) < num:
        raise ValueError(f"{len(found)} prompts in these records; {num} are asked for")
    yield from random.Random(0).sample(list(found.values()), num)


def _seconds(method: EditMethod, batch: EditBatch) -> float:
    begin = time.process_time()
    method.begin(batch)
    while not method.advance(10):
        pass
    method.finish()
    return time.process_time() - begin


def _prompts(record: EditRecord) -> list[str]:
    return [record.prompt, *record.rephrases]
