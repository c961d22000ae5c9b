"""Draws by frequency, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trainables.draws.frequency_band import in_band
from trainables.edits.drawing import banded
from trainables.edits.sources import Source
from trainables.errors import ConfigError
from trainables.interfaces import EditRecord
from trainables.spec import DatasetSpec

# frequencies 0 to 9, in an order of their own
ORDER = (3, 9, 0, 7, 1, 8, 2, 5, 6, 4)
RECORDS = tuple(EditRecord(str(f), f"{f} is", "x", frequency=float(f)) for f in ORDER)


def kept(band: list[float] | None) -> list[int]:
    return [int(record.record_id) for record in in_band(RECORDS, band)]


def test_in_band_when_the_head_is_asked_for_then_the_most_frequent_in_their_order() -> None:
    assert kept([0.0, 0.3]) == [9, 7, 8]
    assert kept([0.7, 1.0]) == [0, 1, 2]
    assert kept([0.3, 0.5]) == [5, 6]


@pytest.mark.parametrize("band", [None, [0.0, 1.0], [0, 1]])
def test_in_band_when_all_is_asked_for_then_all_stay(band: list[float] | None) -> None:
    assert kept(band) == list(ORDER)


def test_in_band_when_frequencies_are_equal_then_the_earlier_record_counts_as_more_frequent() -> (
    None
):
    equal = [replace(record, frequency=1.0) for record in RECORDS]
    assert [record.record_id for record in in_band(equal, [0.0, 0.2])] == ["3", "9"]


@pytest.mark.parametrize(
    "band", [[0.5], [0.5, 0.5], [0.7, 0.3], [-0.1, 1.0], [0.0, 1.1], ["a", "b"], [0.0, 0.5, 1.0]]
)
def test_in_band_when_it_is_no_band_then_the_error_names_it(band: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.frequency_band is .*two shares"):
        in_band(RECORDS, band)


def test_in_band_when_no_record_lies_there_then_the_error_says_so() -> None:
    with pytest.raises(ConfigError, match="of 10 records none lies there"):
        in_band(RECORDS, [0.0, 0.01])


def test_in_band_when_a_frequency_is_unknown_then_the_error_names_the_way_out() -> None:
    records = [*RECORDS, EditRecord("?", "? is", "x")]
    with pytest.raises(ConfigError, match=r"1 of 11 records .*dataset\.frequency_source=gece"):
        in_band(records, [0.0, 0.3])


def source(*records: EditRecord) -> Source:
    return Source(records, (), (), "digest")


def spec(**dataset: Any) -> DatasetSpec:
    return DatasetSpec("zsre", "all", **dataset)


def test_banded_when_there_is_no_band_then_the_very_source() -> None:
    whole = source(*RECORDS)
    assert banded(spec(frequency_band=None, frequency_source="known"), whole) is whole


def test_banded_when_gece_is_not_known_yet_then_all_records_stay() -> None:
    unknown = source(*(replace(record, frequency=None) for record in RECORDS))
    asked = spec(frequency_band=[0.0, 0.3], frequency_source="gece")
    assert banded(asked, unknown) is unknown
    assert len(banded(asked, source(*RECORDS)).records) == 3


def test_banded_when_the_source_of_frequencies_is_unknown_then_the_error_names_it() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.frequency_source is 'wikipedia'"):
        banded(spec(frequency_band=[0.0, 0.3], frequency_source="wikipedia"), source(*RECORDS))


def test_in_band_when_bands_meet_then_each_record_is_in_one() -> None:
    parts = [kept([low / 10, (low + 2) / 10]) for low in (0, 2, 4, 6, 8)]
    assert sorted(number for part in parts for number in part) == list(range(10))
