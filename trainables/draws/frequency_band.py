"""Keeps the records that the backbone saw often, those it saw seldom, or a share in between.

Source: MEMoE v2, Section 2.2 and Appendix B: "Head: top 30% of edits by lowest GECE score", "Tail:
bottom 30%", each edited alone, and both mixed.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainables.errors import ConfigError
from trainables.records import EditRecord


def in_band(records: Sequence[EditRecord], band: Sequence[float] | None) -> tuple[EditRecord, ...]:
    """The records whose rank by falling frequency lies in `band`, in their order.

    Of 10 records [0, 0.3] keeps the 3 most frequent and [0.7, 1] the 3 least; equal frequencies
    stay in their order. None, and [0, 1], keep all.

    Raises:
        ConfigError: If the band is not two rising shares, holds no record, or a record does not
            say how often the backbone saw it.
    """
    if band is None:
        return tuple(records)
    limits = [value for value in band if isinstance(value, int | float)]
    if len(band) != 2 or len(limits) != 2 or not 0 <= limits[0] < limits[1] <= 1:
        raise ConfigError(
            f"dataset.frequency_band is {list(band)}; it must be two shares [low, high] with "
            "0 <= low < high <= 1, the most frequent at 0"
        )
    known = [(index, r.frequency) for index, r in enumerate(records) if r.frequency is not None]
    if len(known) < len(records):
        raise ConfigError(
            f"dataset.frequency_band is {list(band)}; {len(records) - len(known)} of "
            f"{len(records)} records do not say how often the backbone saw them: "
            "dataset.frequency_source=gece ranks them by GECE"
        )
    ranked = [index for index, _ in sorted(known, key=lambda pair: -pair[1])]
    # round: .7 x 10 is 7.000000000000001 in binary, which must not become another record's rank
    low, high = (round(limit * len(ranked)) for limit in limits)
    kept = sorted(ranked[low:high])
    if not kept:
        raise ConfigError(
            f"dataset.frequency_band is {list(band)}; of {len(records)} records none lies there"
        )
    return tuple(records[index] for index in kept)
