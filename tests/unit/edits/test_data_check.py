"""What the driver says of data before anything is trained or started."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.unit.file_trials import spec, write, zsre_line
from trainables.bases import read_method
from trainables.edits.data_check import DataCheck
from trainables.edits.drawing import draw
from trainables.edits.sources import open_source
from trainables.errors import BackboneError, ConfigError, DataError, EditingError
from trainables.methods import method_settings
from trainables.spec import TrialSpec
from trainables.trials.validation import Validator


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
            asked(TrialSpec.parse(embedded("facts_zsre", "zsre", path)))
    assert not (tmp_path / "backbones").exists()


def test_a_folder_as_a_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.path is .*: Is a directory"):
        DataCheck(tmp_path).check(TrialSpec.parse(embedded("facts_zsre", "zsre", tmp_path)))


def test_too_few_records_for_the_draw_are_refused_before_an_embedded_backbone_is_trained(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    for asked in (DataCheck(tmp_path).check, Validator(tmp_path).validate):
        with pytest.raises(EditingError, match=r"protocol\.num_edits is 21"):
            asked(TrialSpec.parse(embedded("facts_zsre", "zsre", path, num_edits=21)))
    assert not (tmp_path / "backbones").exists()


def test_data_of_an_untrained_backbone_are_those_that_it_will_have_read(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(20)]
    for line in lines[:5]:
        line["answers"] = []  # nothing to learn there, so nothing to edit
    path = write(tmp_path / "z.jsonl", lines)
    check = DataCheck(tmp_path)
    wanted = embedded("facts_zsre", "zsre", path)
    assert check.check(TrialSpec.parse(wanted)) == []
    source = check.source(TrialSpec.parse(wanted))
    assert source.is_preview
    assert {int(record.record_id.removeprefix("zsre-")) for record in source.records} <= set(
        range(6, 21)
    )


def test_an_embedded_backbone_that_is_none_is_named_before_the_start(tmp_path: Path) -> None:
    wanted = TrialSpec.parse(embedded("nope", "facts", None))
    with pytest.raises(BackboneError, match="'embedded:nope'; allowed: embedded:facts,"):
        DataCheck(tmp_path).check(wanted)


def test_made_up_data_need_a_backbone_that_read_them(tmp_path: Path) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    with pytest.raises(DataError, match=r"dataset=facts with backbone=facts_zsre.*backbone=facts "):
        DataCheck(tmp_path).check(TrialSpec.parse(embedded("facts_zsre", "facts", path)))
    with pytest.raises(DataError, match=r"dataset=facts needs a backbone that read the made-up"):
        DataCheck(tmp_path).check(TrialSpec.parse(spec(tmp_path, "facts", None)))


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        ("zsre", {"target_field": "target_new"}, "dataset=zsre has alt or answers"),
        ("counterfact", {"target_field": "alt"}, "dataset=counterfact has target_new alone"),
        ("hallucination", {"target_field": "answers"}, "dataset=hallucination has alt alone"),
        ("wiki_counterfact", {"target_field": "x"}, "has alt or answers"),
        ("facts", {"target_field": "alt"}, "dataset=facts has target_new alone"),
        ("facts_passages", {"target_field": "alt"}, "dataset=facts_passages has target_new alone"),
        ("facts", {"path": "a.json"}, r"dataset\.path is a\.json; dataset=facts is made up"),
        ("facts", {"version": 2}, r"dataset\.version is 2; dataset=facts is at version 1"),
        ("zsre", {"version": 7}, r"dataset\.version is 7; dataset=zsre is at version"),
    ],
)
def test_a_key_that_the_data_set_cannot_obey_is_refused(
    tmp_path: Path, dataset: str, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    made_up = dataset.startswith("facts")
    wanted = embedded("facts", dataset, None) if made_up else spec(tmp_path, dataset, path)
    wanted["dataset"] |= changes
    with pytest.raises(ConfigError, match=message):
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            ("perplexity.mean",),
            r"perplexity\.mean; the targets of dataset=zsre are no running text",
        ),
        (("locality_same.token",), "none of the .* records of dataset=zsre has such questions"),
        (("locality_far.token",), ""),
        (("reliability.token", "portability.token"), ""),  # the mean of those that there are
        (("stale_rate",), ""),
        ((), ""),
    ],
)
def test_what_is_compared_when_the_data_set_has_none_of_it_then_refused_before_the_start(
    tmp_path: Path, numbers: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(20)])
    check, wanted = DataCheck(tmp_path, numbers), TrialSpec.parse(spec(tmp_path, "zsre", path))
    with pytest.raises(DataError, match=message) if message else nullcontext():
        check.check(wanted)


def test_edits_that_change_nothing_are_left_out_or_counted_in_every_draw(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(20)]
    for line in lines[:6]:
        line["alt"] = line["answers"][0]
    path = write(tmp_path / "z.jsonl", lines)
    wanted, check = spec(tmp_path, "zsre", path), DataCheck(tmp_path)
    wanted["dataset"]["part"] = "all"
    (left_out, told) = check.check(TrialSpec.parse(wanted))
    assert "6 edits that would change nothing are left out" in left_out
    assert "6 records are left out in every arm" in told
    assert len(check.excluded) == 6
    wanted["protocol"]["num_edits"] = 14
    assert dict(draw(TrialSpec.parse(wanted), check.source(TrialSpec.parse(wanted))).counts) == {
        "unchanged_edits": 0
    }
    wanted["dataset"]["keep_unchanged"] = True
    wanted["protocol"]["num_edits"] = 20
    assert check.check(TrialSpec.parse(wanted)) == [
        "dataset=zsre: 6 edits of dataset.part=all change nothing, as their target was true before"
    ]
    assert dict(draw(TrialSpec.parse(wanted), check.source(TrialSpec.parse(wanted))).counts) == {
        "unchanged_edits": 6
    }


def test_an_embedded_backbone_reads_the_edits_that_change_nothing_too(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(1020)]
    for line in lines[:30]:
        line["alt"] = line["answers"][0]
    path = write(tmp_path / "z.jsonl", lines)
    wanted = embedded("facts_zsre", "zsre", path)
    wanted["dataset"]["part"] = "all"
    found = {
        record.record_id for record in DataCheck(tmp_path).source(TrialSpec.parse(wanted)).records
    }
    assert found == {f"zsre-{line}" for line in range(31, 1001)}  # the first 1,000, less the 30


def test_a_part_that_is_empty_or_too_small_offers_all_parts(tmp_path: Path) -> None:
    few = [zsre_line(number) for number in range(20)]
    one = write(tmp_path / "one.jsonl", few[:1])
    parts = {}
    for part in ("tune", "report"):
        wanted = spec(tmp_path, "zsre", one, num_edits=1)
        wanted["dataset"]["part"] = part
        try:
            parts[part] = DataCheck(tmp_path).check(TrialSpec.parse(wanted))
        except DataError as error:
            parts[part] = str(error)
    (message,) = [answer for answer in parts.values() if answer]
    assert "none of the 1 records of dataset=zsre falls into it" in message
    assert "dataset.part=all takes them all" in message
    wanted["dataset"]["part"] = "all"
    assert DataCheck(tmp_path).check(TrialSpec.parse(wanted)) == []
    wanted = spec(tmp_path, "zsre", write(tmp_path / "few.jsonl", few), num_edits=20)
    with pytest.raises(
        EditingError, match=r"dataset\.part=report; dataset\.part=all, .* offers 20"
    ):
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))


def test_subjects_that_no_prompt_holds_are_told_and_refused_where_they_are_needed(
    tmp_path: Path,
) -> None:
    lines = [zsre_line(number) | {"subject": f"Person {number}"} for number in range(20)]
    wanted = spec(tmp_path, "zsre", write(tmp_path / "z.jsonl", lines))
    (told,) = DataCheck(tmp_path).check(TrialSpec.parse(wanted))
    assert "records lack their subject" in told
    wanted["method"] = {"name": "memit", "module": "memit"}
    with pytest.raises(DataError, match=r"method=memit writes where the subject stands"):
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))
    lines[3]["subject"] = "person 3"
    wanted["dataset"]["path"] = str(write(tmp_path / "y.jsonl", lines))
    wanted["dataset"]["part"] = "all"
    assert DataCheck(tmp_path).check(TrialSpec.parse(wanted)) == []


def test_files_that_ask_the_same_are_told(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(20)]
    paths = [
        str(write(tmp_path / "a.jsonl", lines)),
        str(write(tmp_path / "b.jsonl", [*lines[:4], zsre_line(99)])),
    ]
    wanted = spec(tmp_path, "zsre", None, num_edits=21)
    wanted["dataset"] |= {"path": paths, "part": "all"}
    check = DataCheck(tmp_path)
    (told,) = check.check(TrialSpec.parse(wanted))
    assert "4 records ask what a file before theirs asks too" in told
    assert (
        len(
            {
                record.prompt
                for record in draw(
                    TrialSpec.parse(wanted), check.source(TrialSpec.parse(wanted))
                ).records
            }
        )
        == 21
    )


def test_training_of_the_tune_part_keeps_to_what_is_not_drawn_of_it(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(40)]
    wanted = spec(tmp_path, "zsre", write(tmp_path / "z.jsonl", lines), num_edits=3)
    wanted["dataset"]["part"] = "tune"
    source = open_source(TrialSpec.parse(wanted), tmp_path)
    drawn = draw(TrialSpec.parse(wanted), source).records
    allowed = source.beside(drawn)
    topics = {record.subject for record in drawn}
    assert topics <= {record.edit.subject for record in source.training}
    assert len(allowed.training) == len(source.training) - 3
    assert topics & {record.edit.subject for record in allowed.training} == set()
    asked = {question.prompt for record in drawn for question in record.locality}
    assert asked & set(allowed.training_locality) == set()
    shown = {p for record in allowed.training for p in record.edit.training_locality}
    assert asked & shown == set()


def test_training_without_a_split_keeps_to_what_is_not_drawn(tmp_path: Path) -> None:
    lines = [zsre_line(number) for number in range(20)]
    lines += [zsre_line(0) | {"src": "In which town was person 0 born?"}]  # a subject asked twice
    wanted = spec(tmp_path, "zsre", write(tmp_path / "z.jsonl", lines), num_edits=5)
    wanted["dataset"]["part"] = "all"
    for wanted["seed"] in range(8):
        source = open_source(TrialSpec.parse(wanted), tmp_path)
        assert source.training == source.training_locality == ()
        drawn = draw(TrialSpec.parse(wanted), source).records
        allowed = source.beside(drawn)
        topics = {record.subject for record in drawn}
        assert 15 <= len(allowed.training) <= 16
        assert topics & {record.edit.subject for record in allowed.training} == set()
        asked = {question.prompt for record in drawn for question in record.locality}
        assert allowed.training_locality
        assert asked & set(allowed.training_locality) == set()
    everything = source.beside(source.records)
    assert everything.training == everything.training_locality == ()


@pytest.mark.parametrize(
    ("name", "key"), [("mend", "problems_per_step"), ("serac", "records_per_step")]
)
def test_data_left_to_train_a_network_on_when_too_little_then_it_is_said_before_a_trial(
    name: str, key: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    wanted = spec(tmp_path, "zsre", path, num_edits=3)
    settings = {**method_settings(read_method(name)), key: 4}
    wanted["method"] = {"name": name, "module": name, **settings}
    for part in ("tune", "report", "all"):
        wanted["dataset"]["part"] = part
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))
    wanted["protocol"]["num_edits"] = 38
    with pytest.raises(DataError, match=rf"method {name} trains .* there are 2, of which 1 "):
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))
    wanted["method"] = {"name": "no_edit", "module": "no_edit"}
    DataCheck(tmp_path).check(TrialSpec.parse(wanted))


def test_threshold_that_there_is_nothing_to_choose_on_is_refused_before_a_trial(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(10)])
    wanted = spec(tmp_path, "zsre", path, num_edits=10)
    wanted["dataset"]["part"] = "all"
    settings = method_settings(read_method("retrieval"))
    assert settings["threshold"] is None
    wanted["method"] = {"name": "retrieval", "module": "retrieval", **settings}
    check = DataCheck(tmp_path)
    with pytest.raises(DataError, match=r"method\.threshold is null: .* there are none; "):
        check.check(TrialSpec.parse(wanted))
    wanted["method"]["threshold"] = 0.9
    check.check(TrialSpec.parse(wanted))


def test_data_whose_unrelated_questions_are_all_scored_train_no_network_and_say_so_before_a_trial(
    tmp_path: Path,
) -> None:
    lines = [zsre_line(number) for number in range(40)]
    for line in lines:
        line["loc"] = "nq question: who wrote it"  # the same of all, so that each trial asks it
    wanted = spec(tmp_path, "zsre", write(tmp_path / "z.jsonl", lines))
    settings = {**method_settings(read_method("mend")), "problems_per_step": 4}
    wanted["method"] = {"name": "mend", "module": "mend", **settings}
    with pytest.raises(DataError, match=r"method mend .* dataset=zsre asks none that no trial"):
        DataCheck(tmp_path).check(TrialSpec.parse(wanted))


@pytest.mark.parametrize("name", ["malmen", "mend", "ultraedit"])
def test_modules_that_the_family_has_none_of_are_refused_before_a_trial(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "z.jsonl", [zsre_line(number) for number in range(40)])
    settings = method_settings(read_method(name))
    few = {"problems_per_step": 4, "edits_at_once": 1, "layers": [2], "gate_layers": None}
    settings |= {key: value for key, value in few.items() if key in settings}
    for family, is_fine in (("llama", True), ("gpt2", False)):
        wanted = spec(checkpoints[family], "zsre", path)
        wanted["method"] = {"name": name, "module": name, **settings, "modules": ["gate"]}
        words = r"^method\.modules .*gate.*; family 'gpt2' has none"
        with nullcontext() if is_fine else pytest.raises(ConfigError, match=words):
            Validator(tmp_path / "cache").validate(TrialSpec.parse(wanted))
