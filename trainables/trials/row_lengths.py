"""Refuses records whose rows are longer than the backbone has positions, and names their ids.

A trial knows every length. The driver, which loads no tokenizer for it where it need not, refuses
what is surely too long before Ray starts: a token holds at least one byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.backbones.families import family_of
from trainables.errors import DataError
from trainables.interfaces import EditRecord
from trainables.metrics.evaluator import probes_of
from trainables.spec import TrialSpec

_MOST_NAMED = 5


def check_lengths(lengths: Mapping[str, int], max_positions: int | None, spec: TrialSpec) -> None:
    """Refuse records with a row of more than `max_positions` tokens; None: no limit.

    Args:
        lengths: Tokens of the longest row of each record, prompt and answer together, by its id.
        max_positions: Of the backbone.
        spec: The trial's specification, for the names.

    Raises:
        DataError: If there is any.
    """
    long = {name: length for name, length in lengths.items() if length > (max_positions or length)}
    if not long:
        return
    named = [f"{name} ({length} tokens)" for name, length in list(long.items())[:_MOST_NAMED]]
    more = f" and {len(long) - _MOST_NAMED} more" if len(long) > _MOST_NAMED else ""
    raise DataError(
        f"dataset={spec.dataset.name}: a prompt with its answer is longer than the "
        f"{max_positions} positions of backbone={spec.backbone.name} in {', '.join(named)}"
        f"{more}; shorten or leave out these records"
    )


class DriverLengths:
    """Lengths of records with the tokenizer of a checkpoint's folder, read when it is needed."""

    def __init__(self, folder: Path) -> None:
        """Reads how many positions there are: the configuration alone."""
        values = json.loads((folder / "config.json").read_text("utf-8"))
        keys = family_of(folder).max_positions
        found = [values[key] for key in keys if values.get(key)]
        self.max_positions: int | None = int(found[0]) if found else None
        self._path = folder / "tokenizer.json"
        self._tokenizer: Any = None

    def surely_longest(self, records: Sequence[EditRecord]) -> dict[str, int]:
        """For each record that may be too long, the tokens of its longest row, special ones apart.

        What a tokenizer that makes more tokens than there are bytes does is left to the trial.
        """
        if self.max_positions is None or not self._path.is_file():
            return {}
        found: dict[str, int] = {}
        for probe in probes_of(records):
            text = f"{probe.prompt} {probe.answer.strip()}"
            if len(text.encode()) > self.max_positions:
                name = records[probe.record].record_id
                found[name] = max(self._length(text), found.get(name, 0))
        return found

    def _length(self, text: str) -> int:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self._path))
            self._tokenizer.no_truncation()
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
