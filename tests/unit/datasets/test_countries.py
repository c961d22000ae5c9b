"""Facts about countries: what is true, what is left out, and what is asked beside an edit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import pytest

from trainables.datasets.countries.dataset import loaded
from trainables.datasets.countries.elements import questions
from trainables.datasets.countries.phrasings import PHRASINGS, filled
from trainables.datasets.countries.places import RELATIONS, Country, countries
from trainables.draws.streams import split
from trainables.records import EditRecord

RECORDS = loaded().records
COUNTRIES, LEFT_OUT = countries()
BY_NAME = {country.name: country for country in COUNTRIES}


ASKED = [
    (filled(line, country.title), (relation, country))
    for relation, phrasings in PHRASINGS.items()
    for country in COUNTRIES
    for line in phrasings.edited
]
OF_PROMPT = dict(ASKED)  # what a prompt or a question asks, and of which country


def test_prompts_then_each_says_one_thing_of_one_country() -> None:
    assert len(OF_PROMPT) == len(ASKED)


def test_countries_then_known_facts_are_right() -> None:
    france, states = BY_NAME["France"].answers, BY_NAME["United States"].answers
    assert france["capital"] == ("Paris",)
    assert france["continent"] == ("Europe",)
    assert france["currency"] == ("euro",)
    assert france["language"] == ("French",)
    assert {"Spain", "Italy", "Germany"} <= set(france["neighbour"])
    assert BY_NAME["Germany"].title == "Germany"
    assert BY_NAME["United States"].title == "the United States"
    assert set(states["neighbour"]) == {"Canada", "Mexico", "Cuba"}  # a naval base on Cuba
    assert "the Netherlands" in BY_NAME["Germany"].answers["neighbour"]


@pytest.mark.parametrize(
    ("name", "relation"),
    [
        ("Singapore", "capital"),  # its name says it
        ("Mexico", "capital"),
        ("South Africa", "capital"),  # three cities
        ("South Africa", "continent"),
        ("Israel", "capital"),  # disputed
        ("Turkey", "continent"),  # two
        ("Japan", "neighbour"),  # none
        ("China", "currency"),  # renminbi or yuan
    ],
)
def test_facts_without_one_right_answer_then_left_out_and_named(name: str, relation: str) -> None:
    country = BY_NAME[name]
    assert relation not in country.answers
    assert country.left_out[relation]
    reasons = [bad.reason for bad in loaded().excluded]
    assert sum(reason.startswith(f"{relation} of {country.title}: ") for reason in reasons) == 1


def test_left_out_then_every_place_and_relation_is_counted() -> None:
    assert LEFT_OUT["Antarctica"] == "fewer than 1,000,000 people"
    assert LEFT_OUT["Hong Kong"] == "part of another country"
    assert len(COUNTRIES) + len(LEFT_OUT) == 252  # of GeoNames
    for country in COUNTRIES:
        assert country.answers.keys() | country.left_out.keys() == set(RELATIONS)
        assert not country.answers.keys() & country.left_out.keys()
    num_relations = sum(len(country.left_out) for country in COUNTRIES)
    assert len(loaded().excluded) == len(LEFT_OUT) + num_relations


def test_names_with_several_forms_then_no_answer() -> None:
    answers = {answer for c in COUNTRIES for each in c.answers.values() for answer in each}
    forms = ("Czechia", "Myanmar", "Ivory Coast", "the United Kingdom", "Kyiv", "Bogota")
    assert not answers & set(forms)
    assert all(answer.isascii() for answer in answers)


def test_phrasings_then_enough_and_none_on_both_sides() -> None:
    for relation in RELATIONS:
        phrasings = PHRASINGS[relation]
        assert len(set(phrasings.edited)) >= 8
        assert len(set(phrasings.held_out)) >= 4
        assert not set(phrasings.edited) & set(phrasings.held_out)
        for line in (*phrasings.edited, *phrasings.held_out, phrasings.inferred):
            assert line.count("{s}") == 1
            assert re.fullmatch(r"[\w{}, ]+", line)


def test_records_then_subject_stands_in_every_prompt_and_rephrases_are_held_out() -> None:
    for record in RECORDS:
        assert record.subject is not None
        country, relation = BY_NAME[record.subject], str(record.relation)
        assert OF_PROMPT[record.prompt] == (relation, country)
        held_out = {filled(line, country.title) for line in PHRASINGS[relation].held_out}
        assert len(record.rephrases) == 2
        assert set(record.rephrases) <= held_out
        assert all(record.subject in text for text in (record.prompt, *record.rephrases))


def test_target_then_another_countrys_answer_that_is_wrong_here() -> None:
    values = {
        relation: {a for c in COUNTRIES for a in c.answers.get(relation, ())}
        for relation in RELATIONS
    }
    values["neighbour"] = {country.title for country in COUNTRIES}
    for record in RECORDS:
        country, relation = BY_NAME[str(record.subject)], str(record.relation)
        assert record.true_answer in country.answers[relation]
        assert record.target_new in values[relation]
        right = {*country.answers[relation], *country.also_right.get(relation, ())}
        assert record.target_new not in right | {country.title}
    assert "the United Kingdom" in BY_NAME["Ireland"].also_right["neighbour"]


def test_locality_then_asks_what_no_trial_edits() -> None:
    edited = {record.prompt for record in RECORDS}
    subjects = {record.subject for record in RECORDS}
    far = set(questions())
    kinds: Counter[str] = Counter()
    for record in RECORDS:
        assert edited.isdisjoint(question.prompt for question in record.locality)
        for question in record.locality:
            kinds[question.kind] += 1
            if question.kind == "locality_far":
                assert (question.prompt, question.answer) in far
                continue
            relation, country = OF_PROMPT[question.prompt]
            assert question.answer in country.answers[relation]
            if question.kind == "locality_near":
                assert relation == record.relation
                assert country.name not in subjects
                assert record.target_new not in (country.title, *country.answers.get("capital", ()))
            else:
                assert country.name == record.subject
                assert relation != record.relation
    assert min(kinds[f"locality_{kind}"] for kind in ("near", "same", "far")) >= len(RECORDS)


def continent_of(country: Country) -> tuple[str, ...]:
    return country.answers.get("continent", ())


def test_portability_then_follows_from_the_edit_and_was_another_answer_before() -> None:
    of_capital = {c.answers["capital"][0]: c for c in COUNTRIES if "capital" in c.answers}
    of_title = {country.title: country for country in COUNTRIES}
    places: Mapping[str, Mapping[str, Country]] = {"capital": of_capital, "neighbour": of_title}
    asked = Counter(str(record.relation) for record in RECORDS if record.portability)
    assert set(asked) == set(RELATIONS)
    for record in RECORDS:
        country, relation = BY_NAME[str(record.subject)], str(record.relation)
        for question in record.portability:
            line = PHRASINGS[relation].inferred
            if relation in places:  # the new place stays where it is
                place = places[relation][record.target_new]
                assert (question.answer,) == continent_of(place)
                before = continent_of(places[relation][str(record.true_answer)])
                assert before
                assert (question.answer,) != before
                assert question.prompt == filled(line, country.title)
                assert place.name not in {other.subject for other in RECORDS}
            else:  # what holds in the country holds in its capital
                assert question.answer == record.target_new
                assert question.prompt == filled(line, country.answers["capital"][0])


def test_parts_then_share_no_subject_and_both_have_every_relation() -> None:
    parts: dict[str, tuple[EditRecord, ...]] = {
        "tune": split(RECORDS, "tune"),
        "report": split(RECORDS, "report"),
    }
    names = {part: {record.subject for record in records} for part, records in parts.items()}
    assert not names["tune"] & names["report"]
    for records in parts.values():
        assert {record.relation for record in records} == set(RELATIONS)


def test_neighbours_when_several_then_records_share_a_prompt_and_a_target() -> None:
    own = [r for r in RECORDS if r.relation == "neighbour" and r.subject == RECORDS_OF_MANY]
    assert len(own) > 2
    assert len({(r.prompt, r.target_new, r.rephrases) for r in own}) == 1
    assert {r.true_answer for r in own} == set(BY_NAME[RECORDS_OF_MANY].answers["neighbour"])


def test_elements_then_symbols_of_names_with_one_spelling() -> None:
    asked = dict(questions())
    assert asked["The chemical symbol for gold is"] == "Au"
    assert asked["In the periodic table, oxygen has the symbol"] == "O"
    assert not any("aluminum" in prompt for prompt in asked)


RECORDS_OF_MANY = str(
    next(
        name
        for name, count in Counter(r.subject for r in RECORDS if r.relation == "neighbour").items()
        if count > 2
    )
)
