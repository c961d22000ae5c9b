"""What the driver says of data before anything is trained or started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.file_trials import spec, write, zsre_line
from trainables.data_check import DataCheck
from trainables.errors import DataError, EditingError
from trainables.validation import Validator


def embedded(backbone: str, dataset: str, path: Path | None, **protocol: Any) -> dict[str, Any]:
    made = spec(Path("unused"), dataset, path, **protocol)
    made["backbone"] |= {"name": backbone, "model": f"embedded:{backbone}"}
    return made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"[]", "the file holds no records"),
        (b"\x1f\x8b broken", "broken gzip file"),
        (b'{"src": "q"}\n', "none of its 1 records is usable as zsre"),
        (b"{", "line 1: not valid JSON"),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_an_embedded_backbone_is_trained(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "z.json"
    path.write_bytes(content)
    for asked in (DataCheck(tmp_path).check, Validator(tmp_path).validate):
        with pytest.raises(DataError, match=message):
            asked(embedded("facts_zsre", "zsre", path))
    assert not (tmp_path / "backbones").exists()


def test_a_folder_as_a_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.path is .*: Is a directory"):
        DataCheck(tmp_path).check(embedded("facts_zsre", "zsre", tmp_path))


def test_too_few_records_for_the_draw_are_refused_before_an_embedded_backbone_is_trained(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    for asked in (DataCheck(tmp_path).check, Validator(tmp_path).validate):
        with pytest.raises(EditingError, match=r"protocol\.num_edits is 21"):
            asked(embedded("facts_zsre", "zsre", path, num_edits=21))
    assert not (tmp_path / "backbones").exists()


def test_data_of_an_untrained_backbone_are_those_that_it_will_have_read(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(20)]
    for line in lines[:5]:
        line["answers"] = []  # nothing to learn there, so nothing to edit
    path = write(tmp_path / "z.jsonl", lines)
    check = DataCheck(tmp_path)
    wanted = embedded("facts_zsre", "zsre", path)
    assert check.check(wanted) == []
    source = check.source(wanted)
    assert source.is_preview
    assert {int(record.record_id.removeprefix("zsre-")) for record in source.records} <= set(
        range(6, 21)
    )


def test_made_up_data_need_a_backbone_that_read_them(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    with pytest.raises(DataError, match=r"dataset=facts with backbone=facts_zsre.*backbone=facts "):
        DataCheck(tmp_path).check(embedded("facts_zsre", "facts", path))
    with pytest.raises(DataError, match=r"dataset=facts needs a backbone that read the made-up"):
        DataCheck(tmp_path).check(spec(tmp_path, "facts", None))
