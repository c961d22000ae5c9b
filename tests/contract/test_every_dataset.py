"""The promises of a data set, for every file in search_spaces/dataset/.

A new data set needs no test here: its YAML is found, and fed with files that are written from the
`EXAMPLES` of its module. What becomes of its keys is tested in `test_every_dataset_key`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.contract.dataset_files import (
    FROM_FILES,
    INSTALLED,
    MADE_UP,
    MODULES,
    NAMES,
    NUM_RECORDS,
    STATED,
    module,
    rows_of,
    write,
)
from trainables.datasets import InstalledDataSet, MadeUpDataSet, known_modules
from trainables.draws.streams import topic
from trainables.edits.drawing import FREQUENCY_SOURCES
from trainables.errors import ConfigError, DataError
from trainables.reading.loaded import Loaded
from trainables.records import EditRecord

# What stands for a field that went wrong; the last is half a surrogate pair.
BROKEN = (None, "", "  ", 3, [], {}, [3], "\ud800")


def prompts(loaded: Loaded) -> list[str]:
    return [record.prompt for record in loaded.records]


def check_record(record: EditRecord) -> None:
    """Every text of a record is one, without blanks around it, and each question has an answer."""
    asked = (*record.locality, *record.portability)
    texts = [record.record_id, record.prompt, record.target_new, *record.rephrases]
    texts += [text for question in asked for text in (question.prompt, question.answer)]
    texts += [text for text in (record.subject, record.true_answer) if text is not None]
    assert all(isinstance(text, str) and text and text == text.strip() for text in texts)
    assert record.locality
    for question in record.locality:
        assert question.kind in ("locality_near", "locality_same", "locality_far")
    assert all(question.kind == "portability" for question in record.portability)


# --- what a module and its YAML say of each other ---------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_file_when_read_then_it_states_what_its_module_knows(name: str) -> None:
    stated, found = STATED[name], MODULES[name]
    assert stated["target_field"] in found.TARGET_FIELDS
    if stated["module"] == name:  # a variant may have others
        assert stated["target_field"] == found.TARGET_FIELDS[0]
        assert stated["keep_unchanged"] is False
    assert stated["version"] == found.VERSION
    assert (stated.get("source") == "file") == (name in FROM_FILES)
    assert stated["frequency_source"] in FREQUENCY_SOURCES


def test_every_module_when_listed_then_a_file_names_it() -> None:
    assert {stated["module"] for stated in STATED.values()} == set(known_modules())


# --- files: order, forms, bad records ----------------------------------------------------------


@pytest.mark.parametrize("name", FROM_FILES)
def test_records_when_read_then_each_is_whole_and_all_keep_their_order(
    name: str, tmp_path: Path
) -> None:
    rows = rows_of(name)
    loaded = module(name).load(write(tmp_path / "a.jsonl", rows))
    assert loaded.lines == tuple(range(1, NUM_RECORDS + 1))
    assert not loaded.excluded
    for record in loaded.records:
        check_record(record)
    assert len({record.record_id for record in loaded.records}) == NUM_RECORDS
    assert len({topic(record) for record in loaded.records}) == NUM_RECORDS
    backwards = module(name).load(write(tmp_path / "b.jsonl", rows[::-1]))
    assert prompts(backwards) == prompts(loaded)[::-1]


@pytest.mark.parametrize("name", FROM_FILES)
def test_records_when_as_list_zipped_or_in_two_files_then_they_are_the_same(
    name: str, tmp_path: Path
) -> None:
    rows = rows_of(name)
    lines = write(tmp_path / "lines", rows)
    (tmp_path / "list").write_text(json.dumps(rows, indent=1), "utf-8")
    (tmp_path / "zipped").write_bytes(gzip.compress(lines.read_bytes()))
    loaded = module(name).load(lines)
    for other in ("list", "zipped"):
        assert module(name).load(tmp_path / other).records == loaded.records
    halves = [write(tmp_path / "1", rows[:15]), write(tmp_path / "2", rows[15:])]
    joined = module(name).load(halves)
    assert prompts(joined) == prompts(loaded)
    assert joined.lines == loaded.lines


@pytest.mark.parametrize("name", FROM_FILES)
def test_bad_records_when_read_then_each_is_named_and_the_others_stay(
    name: str, tmp_path: Path
) -> None:
    rows = rows_of(name)
    path = write(tmp_path / "a.jsonl", [*rows[:2], {}, 3, ["x"], None, *rows[2:]])
    loaded = module(name).load(path)
    assert [(bad.file, bad.line) for bad in loaded.excluded] == [
        (str(path), line) for line in (3, 4, 5, 6)
    ]
    assert all(bad.reason and "\n" not in bad.reason for bad in loaded.excluded)
    assert prompts(loaded) == prompts(module(name).load(write(tmp_path / "b.jsonl", rows)))
    with pytest.raises(DataError, match=r"none of its 2 records is usable.*line 1: "):
        module(name).load(write(tmp_path / "c.jsonl", [{}, 3]))


@pytest.mark.parametrize("name", FROM_FILES)
def test_any_field_when_broken_then_its_record_is_named_or_can_do_without(
    name: str, tmp_path: Path
) -> None:
    first, last = rows_of(name, 1)[0], rows_of(name)[-1]
    num_named = 0
    for form in rows_of(name, len(module(name).EXAMPLES) + 1)[1:]:
        for key in form:
            without = {other: value for other, value in form.items() if other != key}
            for broken in (without, *({**form, key: value} for value in BROKEN)):
                path = write(tmp_path / "a.jsonl", [first, broken, last])
                loaded = module(name).load(path)
                assert sorted([*loaded.lines, *(bad.line for bad in loaded.excluded)]) == [1, 2, 3]
                assert {1, 3} <= set(loaded.lines)
                for record in loaded.records:
                    check_record(record)
                num_named += len(loaded.excluded)
    assert num_named


@pytest.mark.parametrize("name", FROM_FILES)
def test_target_fields_when_chosen_then_each_is_obeyed_and_others_refused(
    name: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", rows_of(name))
    fields = module(name).TARGET_FIELDS
    loaded = {field: module(name).load(path, field) for field in fields}
    targets = [tuple(r.target_new for r in loaded[field].records) for field in fields]
    assert len(set(targets)) == len({each.digest for each in loaded.values()}) == len(fields)
    assert module(name).load(path) == loaded[fields[0]]
    with pytest.raises(ConfigError, match=r"dataset\.target_field is 'no_such'.* has"):
        module(name).load(path, "no_such")


@pytest.mark.parametrize("name", FROM_FILES)
def test_digest_when_the_content_changes_then_it_does_and_with_the_name_it_does_not(
    name: str, tmp_path: Path
) -> None:
    rows = rows_of(name)
    digest = module(name).load(write(tmp_path / "a.jsonl", rows)).digest
    assert module(name).load(write(tmp_path / "b.jsonl", rows)).digest == digest
    assert module(name).load(write(tmp_path / "c.jsonl", rows[:-1])).digest != digest
    assert module(name).load(write(tmp_path / "d.jsonl", rows[::-1])).digest != digest


# --- the made-up world -------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_records_when_made_again_then_they_are_the_same_and_whole(name: str) -> None:
    found = MODULES[name]
    assert isinstance(found, MadeUpDataSet)
    records = found.records("report")
    assert records == found.records("report")
    assert found.digest() == found.digest()
    for record in records:
        check_record(record)
    assert found.records("report", frozenset()) != records  # nothing may be asked


# --- facts of installed packages ----------------------------------------------------------------


@pytest.mark.parametrize("name", INSTALLED)
def test_installed_facts_when_read_then_they_are_whole_and_offer_what_is_asked(name: str) -> None:
    found = MODULES[name]
    assert isinstance(found, InstalledDataSet)
    loaded = found.loaded()
    assert loaded == found.loaded()
    for record in loaded.records:
        check_record(record)
        assert record.subject is not None
        assert record.subject in record.prompt
        assert record.true_answer not in (None, record.target_new)
    assert len({record.record_id for record in loaded.records}) == len(loaded.records)
    assert all(bad.reason and "\n" not in bad.reason for bad in loaded.excluded)
