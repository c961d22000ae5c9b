"""Every key of every file in search_spaces/dataset/ is obeyed or refused, and decides its part.

What is typed goes the whole way from the command line to the records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.precheck import precheck
from orchestrator.settings.loading import load
from tests.contract.dataset_files import (
    FROM_FILES,
    MADE_UP,
    MODULES,
    NAMES,
    NUM_RECORDS,
    STATED,
    module,
    rows_of,
    write,
)
from trainables.datasets import MadeUpDataSet
from trainables.draws.streams import topic
from trainables.draws.training import scored_prompts
from trainables.edits.data_check import DataCheck
from trainables.edits.drawing import draw
from trainables.edits.known import asked_facts, only_known
from trainables.edits.sources import Source, open_source
from trainables.errors import DataError
from trainables.reading.answers import answer_lines
from trainables.spec import TrialSpec as ToldSpec

OF_THE_FILE = ("name", "module", "source", "version", "locality")  # what a YAML says of itself


def with_texts(value: Any, texts: Mapping[str, str]) -> Any:
    """`value` with each whole text replaced that `texts` has."""
    if isinstance(value, dict):
        return {key: with_texts(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item, texts) for item in value]
    return texts.get(value, value) if isinstance(value, str) else value


@cache
def made_up_digest(name: str) -> str:
    found = MODULES[name]
    assert isinstance(found, MadeUpDataSet)
    return found.digest()


class Typed:
    """A plan of one trial on a data set, from its command line."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.words = ["ablation=smoke", "method=no_edit", f"dataset={name}"]
        self.words += ["seeds=[0]", "protocol.num_edits=3", "dataset.part=report"]
        self.words += [f"dataset.{key}=null" for key in ("max_edits", "frequency_band")]
        self.words += [f"dataset.{key}=false" for key in ("keep_unchanged", "known_only")]
        self.words.append("backbone=facts_tiny" if name in MADE_UP else "backbone=gpt2_xl")
        self.path = folder / "records.jsonl"
        if name in FROM_FILES:
            write(self.path, rows_of(name))
            self.words.append(f"dataset.path={self.path}")

    def spec(self, *more: str) -> TrialSpec:
        """The trial; whatever a dry run refuses is refused."""
        keys = [word.partition("=")[0] for word in more]
        words = [word for word in self.words if word.partition("=")[0] not in keys]
        plan = expand(load([*words, *more]))
        precheck(plan, DataCheck(self.folder).check)
        (trial,) = plan.trials
        return trial

    def source(self, *more: str) -> Source:
        """Its records; of the made-up world as of a backbone that knows all."""
        spec = ToldSpec.parse(self.spec(*more).to_dict())
        if self.name in MADE_UP:
            return DataCheck(self.folder).source(spec)
        return open_source(spec, self.folder)

    def refused(self, *more: str) -> str:
        """What is said of them."""
        with pytest.raises(UsageError) as caught:
            self.spec(*more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def fingerprint(self, *more: str) -> str:
        """Of the trial's result, on some backbone."""
        is_made_up = self.name in MADE_UP
        digest = made_up_digest(self.name) if is_made_up else self.source(*more).digest
        extra = {"dataset_digest": digest, "backbone_fingerprint": "of some backbone"}
        return fingerprint(self.spec(*more), extra)


@pytest.fixture
def typed(name: str, tmp_path: Path) -> Typed:
    return Typed(name, tmp_path)


def check_path(typed: Typed) -> None:
    if typed.name not in FROM_FILES:
        assert "is not read from a file" in typed.refused("dataset.path=a.json")
        return
    assert "add dataset.path=FILE" in typed.refused("dataset.path=null")
    assert "there is no such file" in typed.refused(f"dataset.path={typed.folder / 'gone'}")
    other = write(typed.folder / "other.jsonl", rows_of(typed.name)[::2])
    assert typed.source(f"dataset.path={other}").num_in_all_parts == NUM_RECORDS // 2
    both = typed.source(f"dataset.path=[{typed.path},{other}]")
    assert both.num_repeated == NUM_RECORDS // 2


def check_target_field(typed: Typed) -> None:
    targets = set()
    for field in MODULES[typed.name].TARGET_FIELDS:
        records = typed.source(f"dataset.target_field={field}", "dataset.part=all").records
        targets.add(tuple(record.target_new for record in records))
    assert len(targets) == len(MODULES[typed.name].TARGET_FIELDS)
    words = typed.refused("dataset.target_field=no_such")
    assert f"dataset.target_field is 'no_such'; dataset={typed.name} has" in words


def check_part(typed: Typed) -> None:
    sources = {part: typed.source(f"dataset.part={part}") for part in ("tune", "report", "all")}
    topics = {part: {topic(each) for each in sources[part].records} for part in sources}
    assert topics["tune"]
    assert topics["report"]
    assert not topics["tune"] & topics["report"]
    assert topics["tune"] | topics["report"] == topics["all"]
    for part in ("tune", "report"):
        order = [record.record_id for record in sources["all"].records]
        own = [record.record_id for record in sources[part].records]
        assert typed.name in MADE_UP or own == [each for each in order if each in set(own)]
    assert "allowed: tune, report, all" in typed.refused("dataset.part=test")


def check_keep_unchanged(typed: Typed) -> None:
    assert "true or false" in typed.refused("dataset.keep_unchanged=maybe")
    if typed.name not in FROM_FILES:
        for record in typed.source().records:
            assert record.target_new != record.true_answer
        return
    rows = rows_of(typed.name)
    records = module(typed.name).load(typed.path).records
    for number, record in enumerate(records[::2]):
        if record.true_answer is None:
            return  # nothing is known of what was true
        rows[2 * number] = with_texts(rows[2 * number], {record.target_new: record.true_answer})
    write(typed.path, rows)
    every = ("dataset.part=all", f"dataset.target_field={module(typed.name).TARGET_FIELDS[0]}")
    kept, changed = (
        typed.source(f"dataset.keep_unchanged={value}", *every) for value in ("true", "false")
    )
    assert len(kept.records) == NUM_RECORDS
    assert [r.record_id for r in changed.records] == [r.record_id for r in kept.records[1::2]]
    assert len(changed.excluded) == NUM_RECORDS // 2
    assert changed.digest != kept.digest


def check_max_edits(typed: Typed) -> None:
    assert "dataset.max_edits=0" in typed.refused("dataset.max_edits=0")
    assert "can feed 2 edits at most" in typed.refused("dataset.max_edits=2")
    assert typed.spec("dataset.max_edits=3").protocol["num_edits"] == 3


def check_frequency_band(typed: Typed) -> None:
    typed_band = ("dataset.frequency_band=[0,0.5]", "dataset.frequency_source=known")
    records = typed.source().records
    if any(record.frequency is None for record in records):
        assert "do not say how often" in typed.refused(*typed_band)
    else:
        drawn = draw(ToldSpec.parse(typed.spec(*typed_band).to_dict()), typed.source()).records
        frequencies = sorted((record.frequency or 0.0 for record in records), reverse=True)
        least = frequencies[len(records) // 2 - 1]
        assert all(record.frequency is not None and record.frequency >= least for record in drawn)
    assert "dataset.frequency_band is [2, 3]" in typed.refused(
        "dataset.frequency_band=[2,3]", "dataset.frequency_source=known"
    )


def check_frequency_source(typed: Typed) -> None:
    key = "dataset.frequency_source"
    assert "nothing is drawn by frequency" in typed.refused(f"{key}=gece")
    band = "dataset.frequency_band=[0,0.5]"
    assert "must be known or gece" in typed.refused(f"{key}=no_such", band)
    assert typed.spec(f"{key}=gece", band).dataset["frequency_source"] == "gece"


def check_known_only(typed: Typed) -> None:
    assert "true or false" in typed.refused("dataset.known_only=maybe")
    records = typed.source("dataset.part=all").records
    if all(record.true_answer is None for record in records):
        words = typed.refused("dataset.known_only=true", "dataset.part=all")
        assert f"none of the {len(records)} records of dataset={typed.name} says" in words
        return
    plain = typed.fingerprint()
    assert typed.fingerprint("dataset.known_only=true") != plain
    without = replace(typed.spec(), dataset=dict(typed.spec().dataset))
    del without.dataset["known_only"]
    digest = {"dataset_digest": typed.source().digest, "backbone_fingerprint": "of some backbone"}
    assert fingerprint(without, digest) == fingerprint(typed.spec(), digest)  # as of old results
    source = typed.source("dataset.known_only=true")
    if typed.name not in MADE_UP:  # of those a preview has none
        assert source.digest != typed.source().digest  # another table
    prompts = sorted({r.prompt for r in source.records if r.true_answer is not None})
    held = {fact for fact in asked_facts(source.records) if fact[0] in prompts[::2]}
    known = only_known(source, held, typed.name, "gpt2_xl")
    assert {record.prompt for record in known.records} == set(prompts[::2])
    assert (known.knowledge.num_known, known.knowledge.num_facts) == (
        len(prompts[::2]),
        len(prompts),
    )
    words = "none of the"
    with pytest.raises(DataError, match=words):
        only_known(source, (), typed.name, "gpt2_xl")


def check_answers(typed: Typed) -> None:
    counts = ("protocol.num_questions=3", "protocol.answers_per_question=2")
    serial = ("protocol.kind=serial", "protocol.num_edits=6", *counts)
    assert "there is no such file" in typed.refused("dataset.answers=gone", *serial)
    records = typed.source().records
    asked = {record.prompt: record for record in records}  # a draw takes one for each prompt
    chosen = list(asked.values())[:3]
    answers = [(record, ["an older one", record.target_new]) for record in chosen]
    path = typed.folder / "answers.jsonl"
    path.write_text("".join(answer_lines(answers)))
    word = f"dataset.answers={path}"
    assert "it is for protocol.kind=serial, not for" in typed.refused(word)
    spec = typed.spec(word, *serial)
    digest = hashlib.sha256(Path(spec.dataset["answers"]).read_bytes()).hexdigest()[:12]
    assert spec.protocol["answers"] == f"from a file (sha256 {digest})"
    drawn = draw(ToldSpec.parse(spec.to_dict()), typed.source(word, *serial)).records
    assert {record.prompt for record in drawn} == {record.prompt for record in chosen}
    assert [record.target_new for record in drawn[:3]] == ["an older one"] * 3
    path.write_text("".join(answer_lines(answers[:2])))
    assert "offers 2 different prompts" in typed.refused(word, *serial)
    path.write_text('{"prompt": "Who asks that?", "answers": ["a", "b"]}')
    assert "asks 'Who asks that?'" in typed.refused(word, *serial)


CHECKS: dict[str, Callable[[Typed], None]] = {
    "path": check_path,
    "answers": check_answers,
    "target_field": check_target_field,
    "part": check_part,
    "keep_unchanged": check_keep_unchanged,
    "known_only": check_known_only,
    "max_edits": check_max_edits,
    "frequency_band": check_frequency_band,
    "frequency_source": check_frequency_source,
}


@pytest.mark.parametrize("key", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_key_when_typed_then_it_is_obeyed_or_refused(key: str, typed: Typed) -> None:
    CHECKS[key](typed)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_file_is_typed_here(name: str) -> None:
    assert STATED[name].keys() <= {*CHECKS, *OF_THE_FILE, "base", "cost"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_says_of_itself_when_typed_then_it_is_refused(typed: Typed) -> None:
    for key in OF_THE_FILE:
        assert f"dataset.{key}: " in typed.refused(f"dataset.{key}=1")


@pytest.mark.parametrize("name", NAMES)
def test_whether_targets_are_passages_when_opened_then_the_source_says_it(typed: Typed) -> None:
    assert typed.source().has_passages == MODULES[typed.name].HAS_PASSAGES


@pytest.mark.parametrize("name", NAMES)
def test_fingerprint_when_what_decides_a_number_changes_then_it_does(typed: Typed) -> None:
    plain = typed.fingerprint()
    moved = [typed.fingerprint(f"dataset.part={part}") for part in ("tune", "all")]
    moved.append(typed.fingerprint("dataset.frequency_band=[0,1]", "dataset.frequency_source=gece"))
    moved += [
        typed.fingerprint(f"dataset.target_field={field}")
        for field in MODULES[typed.name].TARGET_FIELDS
        if field != STATED[typed.name]["target_field"]
    ]
    if typed.name in FROM_FILES:
        other = write(typed.folder / "other.jsonl", rows_of(typed.name)[::-1])
        moved.append(typed.fingerprint(f"dataset.path={other}"))
        same = write(typed.folder / "same.jsonl", rows_of(typed.name))
        assert typed.fingerprint(f"dataset.path={same}") == plain
    assert len({plain, *moved}) == 1 + len(moved)
    assert typed.fingerprint("dataset.max_edits=50") == plain


@pytest.mark.parametrize("part", ["tune", "report", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_training_when_handed_over_then_no_trial_is_scored_on_a_prompt_of_it(
    typed: Typed, part: str
) -> None:
    word = f"dataset.part={part}"
    source = typed.source(word)
    for seed in range(4):
        told = ToldSpec.parse(typed.spec(word, f"seeds=[{seed}]").to_dict())
        drawn = draw(told, source).records
        handed = source.beside(drawn)
        # With a part of its own for training nothing of the other one is shown, drawn or not.
        scored = scored_prompts(source.records if part == "report" else drawn)
        assert handed.training
        for record in handed.training:
            edit = record.edit
            shown = {edit.prompt, *record.rephrases, *edit.training_locality}
            shown |= {question.prompt for question in record.unrelated}
            assert shown.isdisjoint(scored)
            assert len({question.prompt for question in record.unrelated}) == len(record.unrelated)
            assert edit.prompt not in {question.prompt for question in record.unrelated}
        assert any(record.unrelated for record in handed.training)
        trained = {(each.edit.subject or each.edit.prompt).casefold() for each in handed.training}
        assert trained.isdisjoint(map(topic, source.records if part == "report" else drawn))
