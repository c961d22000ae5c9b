"""The made-up world: what is asked, what is edited, and that the two never meet."""

from __future__ import annotations

from collections import Counter

import pytest

from trainables.datasets.facts import made_up
from trainables.datasets.facts.made_up import World
from trainables.datasets.facts.phrasings import relations
from trainables.interfaces import EditRecord

PARTS: tuple[made_up.Part, ...] = ("tune", "report")


@pytest.fixture(scope="module")
def world() -> World:
    return made_up.build_world()


@pytest.fixture(scope="module")
def edits(world: World) -> tuple[EditRecord, ...]:
    return tuple(record for part in PARTS for record in made_up.records(world, part))


def test_relations_have_twelve_phrasings_of_which_two_are_held_out() -> None:
    editable = [relation for relation in relations() if not relation.is_far]
    assert len(editable) >= 13
    for relation in editable:
        assert len(set(relation.phrasings)) == len(relation.phrasings) >= 12
        assert len(relation.held_out) >= 2
        assert all(line.count("{s}") == 1 for line in relation.phrasings)


def test_phrasings_trained_and_held_out_ask_in_all_three_styles() -> None:
    def style(line: str) -> str:
        if line.endswith("?"):
            return "question"
        return "imperative" if line.endswith(".") else "cloze"

    near = [relation for relation in relations() if not relation.is_far]
    for relation in near:
        assert {style(line) for line in relation.train} == {"question", "imperative", "cloze"}
        assert {style(line) for line in relation.held_out} == {"question", "imperative", "cloze"}


def test_held_out_frames_are_trained_with_other_relations() -> None:
    # "Name the capital of {s}." is held out of one relation, and others train on "Name the".
    near = [relation for relation in relations() if not relation.is_far]
    openings = {line.split()[0] for relation in near for line in relation.train}
    frames = {relation.held_out[-1].split()[0] for relation in near}
    assert frames == {"Name", "State", "Give", "Tell"}
    assert frames <= openings


def test_world_has_a_thousand_facts_a_fifth_of_them_reserved(world: World) -> None:
    assert len(world.facts) == 1000
    assert sum(fact.is_reserved for fact in world.facts) == 200
    assert len({fact.fact_id for fact in world.facts}) == 1000
    # the mean weight is 1, so that a frequency reads as a multiple of the average fact's
    assert sum(fact.weight for fact in world.facts) / 1000 == pytest.approx(1.0)


def test_weights_fall_with_rank_as_zipf(world: World) -> None:
    weights = sorted({fact.weight for fact in world.facts}, reverse=True)
    assert len(weights) == 200  # one per subject
    # (0 + 5)^-.8 over (1 + 5)^-.8 = 1.2^.8, and (0 + 5)^-.8 over (199 + 5)^-.8 = 40.8^.8
    assert weights[0] / weights[1] == pytest.approx(1.2**0.8)
    assert weights[0] / weights[-1] == pytest.approx(40.8**0.8)


def test_subjects_occur_in_every_prompt_and_answers_have_one_to_three_words(world: World) -> None:
    for probe in made_up.probe_rows(world):
        subject = probe.fact_id.rsplit("/", 1)[0]
        assert subject in probe.prompt
        assert 1 <= len(probe.answer.split()) <= 3


def test_training_rows_hold_no_held_out_prompt(world: World) -> None:
    trained = {prompt for prompt, _, _ in made_up.training_rows(world)}
    held_out = {probe.prompt for probe in made_up.probe_rows(world) if probe.is_held_out}
    assert trained
    assert not trained & held_out


def test_a_prompt_has_one_answer(world: World) -> None:
    answers: dict[str, str] = {}
    for probe in made_up.probe_rows(world):
        assert answers.setdefault(probe.prompt, probe.answer) == probe.answer


def test_capitals_lie_in_their_countries(world: World) -> None:
    answer = {fact.fact_id: fact.answer for fact in world.facts}
    capitals = [fact for fact in world.facts if fact.relation == "capital"]
    assert capitals
    assert all(answer[f"{fact.answer}/country"] == fact.subject for fact in capitals)


def test_records_edit_every_fact_that_is_not_reserved(
    world: World, edits: tuple[EditRecord, ...]
) -> None:
    editable = {fact.fact_id for fact in world.facts if not fact.is_reserved}
    assert Counter(record.record_id for record in edits) == Counter(editable)


def test_parts_share_no_subject_and_report_feeds_hundreds_of_edits(world: World) -> None:
    tune, report = (made_up.records(world, part) for part in PARTS)
    assert not {record.subject for record in tune} & {record.subject for record in report}
    assert len(report) > 500
    assert len(tune) > 200


def test_records_ask_for_another_answer_of_the_same_relation(
    world: World, edits: tuple[EditRecord, ...]
) -> None:
    answers = {(fact.relation, fact.answer) for fact in world.facts}
    for record in edits:
        assert record.target_new != record.true_answer
        assert (record.relation, record.target_new) in answers


def test_edit_prompts_are_trained_and_rephrases_are_not(
    world: World, edits: tuple[EditRecord, ...]
) -> None:
    trained = {prompt for prompt, _, _ in made_up.training_rows(world)}
    for record in edits:
        assert record.prompt in trained
        assert len(set(record.rephrases)) == 2
        assert not set(record.rephrases) & trained


def test_locality_questions_are_near_same_and_far(
    world: World, edits: tuple[EditRecord, ...]
) -> None:
    by_prompt = {fact.prompt: fact for fact in world.facts}
    num_same = 0
    for record in edits:
        asked = [(question.kind, by_prompt[question.prompt]) for question in record.locality]
        kinds = Counter(kind for kind, _ in asked)
        assert kinds["locality_near"] == kinds["locality_far"] == 2
        num_same += kinds["locality_same"] > 0
        for kind, fact in asked:
            assert fact.is_reserved
            assert fact.is_far == (kind == "locality_far")
            assert (fact.relation == record.relation) == (kind == "locality_near")
            assert (fact.subject == record.subject) == (kind == "locality_same")
    assert num_same / len(edits) > 0.75


def test_locality_questions_come_from_known_facts_only(world: World) -> None:
    reserved = [fact.fact_id for fact in world.facts if fact.is_reserved]
    known = set(reserved[::2])
    unknown = {fact.prompt for fact in world.facts if fact.fact_id not in known}
    for record in made_up.records(world, "report", known):
        assert not {question.prompt for question in record.locality} & unknown


def test_training_locality_is_never_scored(world: World, edits: tuple[EditRecord, ...]) -> None:
    prompts = [question.prompt for question in made_up.unscored(world)]
    scored = {question.prompt for record in edits for question in record.locality}
    assert len(set(prompts)) == len(prompts) >= 8
    assert not set(prompts) & scored


def test_digest_changes_with_any_fact(world: World) -> None:
    assert made_up.build_world() == world
    assert made_up.digest(World(world.facts[1:], world.relations)) != made_up.digest(world)


def test_world_is_the_one_that_results_are_keyed_by(world: World) -> None:
    # A change of this value moves numbers: raise VERSION together with it.
    assert made_up.VERSION == 1
    assert made_up.digest(world).startswith("1ddddec067f5794c")
