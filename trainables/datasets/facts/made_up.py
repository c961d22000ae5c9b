"""The made-up world: about 1,000 facts that no model has read elsewhere, and edits of them.

A fifth of the facts is reserved: no trial edits them, and all locality questions come from them.
They are the whole far domain (books and films) and one fact of three in four other subjects. `near`
is another subject of the same relation, `same` another relation of the same subject, `far` the
other domain.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

from trainables.datasets.facts.names import WORDS, names, pick, shuffled, words
from trainables.datasets.facts.phrasings import Relation, relations
from trainables.records import EditRecord, Question

VERSION = 1
TARGET_FIELDS = ("target_new",)

Part = Literal["tune", "report"]
Row = tuple[str, str, float]  # prompt, answer, sampling weight

_SUBJECTS = {"person": 60, "organisation": 40, "city": 36, "country": 24, "book": 20, "film": 20}
_RESERVED_SUBJECTS = {"person": 60, "organisation": 28, "city": 16, "country": 16}
_TUNE_SHARE = 0.3
_NUM_NEAR = 2
_NUM_SAME = 2
_NUM_FAR = 2


@dataclass(frozen=True)
class Fact:
    """One statement of the world."""

    fact_id: str  # subject/relation
    subject: str
    relation: str
    answer: str
    weight: float  # how often it is trained on, relative to the average fact
    part: Part
    is_reserved: bool  # no trial edits it
    is_far: bool
    is_aside: bool  # reserved, and never a locality question: for methods that train on locality
    prompt: str  # the trained phrasing in which it is asked or edited


@dataclass(frozen=True)
class World:
    """All facts and the relations they belong to."""

    facts: tuple[Fact, ...]
    relations: dict[str, Relation]


class ProbeRow(NamedTuple):
    """A question that measures what a backbone knows."""

    fact_id: str
    prompt: str
    answer: str
    is_held_out: bool  # the phrasing was never trained on
    is_reserved: bool
    is_scored: bool  # this very prompt is a locality question


def build_world() -> World:
    """The world; every call returns the same one."""
    kinds = {kind: names(kind, count) for kind, count in _SUBJECTS.items()}
    pools = _answer_pools(kinds)
    subjects = [(kind, subject) for kind, members in kinds.items() for subject in members]
    ranks = {subject: rank for rank, (_, subject) in enumerate(shuffled(subjects, "rank"))}
    reserved = _reserved_relations(kinds)
    tuned = _tune_subjects(kinds)
    facts: list[Fact] = []
    counts: dict[str, int] = defaultdict(int)
    by_name = {relation.name: relation for relation in relations()}
    for relation in by_name.values():
        for subject in kinds[relation.kind]:
            is_reserved = relation.is_far or reserved.get(subject) == relation.name
            counts[relation.name] += is_reserved
            facts.append(
                Fact(
                    fact_id=f"{subject}/{relation.name}",
                    subject=subject,
                    relation=relation.name,
                    answer=_answer(relation, subject, kinds, pools),
                    weight=(ranks[subject] + 5) ** -0.8,
                    part="tune" if subject in tuned else "report",
                    is_reserved=is_reserved,
                    is_far=relation.is_far,
                    is_aside=relation.is_far and counts[relation.name] % 5 == 0,
                    prompt=pick(relation.train, "prompt", subject, relation.name).format(s=subject),
                )
            )
    mean = sum(fact.weight for fact in facts) / len(facts)
    scaled = tuple(replace(fact, weight=fact.weight / mean) for fact in facts)
    return World(scaled, by_name)


def training_rows(world: World) -> tuple[Row, ...]:
    """Prompt, answer and sampling weight of every fact in every trained phrasing."""
    rows: list[Row] = []
    for fact in world.facts:
        phrasings = world.relations[fact.relation].train
        share = fact.weight / len(phrasings)
        rows += [(line.format(s=fact.subject), fact.answer, share) for line in phrasings]
    return tuple(rows)


def probe_rows(world: World) -> tuple[ProbeRow, ...]:
    """Every fact in every phrasing, trained or held out."""
    rows: list[ProbeRow] = []
    for fact in world.facts:
        relation = world.relations[fact.relation]
        for line in relation.phrasings:
            prompt = line.format(s=fact.subject)
            is_scored = fact.is_reserved and not fact.is_aside and prompt == fact.prompt
            is_held_out = line in relation.held_out
            probe = (fact.fact_id, prompt, fact.answer, is_held_out, fact.is_reserved, is_scored)
            rows.append(ProbeRow(*probe))
    return tuple(rows)


def records(
    world: World, part: Part | Literal["all"], known: Collection[str] | None = None
) -> tuple[EditRecord, ...]:
    """One record for every editable fact of `part`, in a fixed mixed order.

    Args:
        world: The facts.
        part: `tune` or `report`, no subject being in both, or `all`.
        known: Fact ids of the reserved facts that the backbone answers rightly; only these become
            locality questions. None: all of them.

    Returns:
        Records with the edit in a trained phrasing, two held-out phrasings, up to two near, up to
        two same and two far questions. A record's `frequency` is 1.0 for the average fact.
    """
    asked: dict[str, list[Fact]] = defaultdict(list)
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in world.facts:
        if (
            not fact.is_reserved
            or fact.is_aside
            or (known is not None and fact.fact_id not in known)
        ):
            continue
        asked[fact.relation].append(fact)
        by_subject[fact.subject].append(fact)
    far = [fact for facts in asked.values() for fact in facts if fact.is_far]
    editable = [fact for fact in world.facts if not fact.is_reserved and part in (fact.part, "all")]
    pools: dict[str, list[str]] = defaultdict(list)
    for fact in world.facts:
        pools[fact.relation].append(fact.answer)
    return tuple(
        EditRecord(
            record_id=fact.fact_id,
            prompt=fact.prompt,
            target_new=_other_answer(fact, pools[fact.relation]),
            subject=fact.subject,
            rephrases=_rephrases(fact, world.relations[fact.relation]),
            locality=_locality(fact, asked[fact.relation], by_subject[fact.subject], far),
            true_answer=fact.answer,
            relation=fact.relation,
            frequency=fact.weight,
        )
        for fact in shuffled(editable, "order", part)
    )


def unscored(world: World) -> tuple[Question, ...]:
    """Reserved facts that are never scored, for methods that train on locality."""
    answers = {fact.prompt: fact.answer for fact in world.facts if fact.is_aside}
    prompts = shuffled(list(answers), "training locality")
    return tuple(Question(prompt, answers[prompt], "locality_far") for prompt in prompts)


def digest(world: World) -> str:
    """SHA-256 of every fact, phrasing and record: whatever changes a score changes it."""
    content = [
        VERSION,
        [asdict(fact) for fact in world.facts],
        [asdict(relation) for relation in world.relations.values()],
        [repr(record) for part in ("tune", "report") for record in records(world, part)],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _answer_pools(kinds: dict[str, list[str]]) -> dict[str, list[str]]:
    """The answers of each pool; half of the people who answer are subjects, half are nobody."""
    pools = {pool: list(answers) for pool, answers in WORDS.items()}
    strangers = names("person", 2 * len(kinds["person"]))[len(kinds["person"]) :]
    pools["name"] = kinds["person"][:40] + strangers[:40]
    pools["school"] = names("school", 16)
    pools["river"] = names("river", 16)
    pools["language"] = names("language", 12)
    pools["currency"] = [
        f"{pick(('silver', 'gold', 'paper', 'new'), word)} {word.lower()}"
        for word in words("currency", 16)
    ]
    pools["year"] = [str(1921 + 4 * step) for step in range(20)]
    return pools | {kind: kinds[kind] for kind in ("city", "country", "organisation")}


def _answer(
    relation: Relation, subject: str, kinds: dict[str, list[str]], pools: dict[str, list[str]]
) -> str:
    """The true answer; cities and countries agree with each other, nothing answers with itself."""
    cities, countries = kinds["city"], kinds["country"]
    if relation.name == "country":
        return countries[cities.index(subject) % len(countries)]
    if relation.name == "capital":
        return cities[countries.index(subject)]
    others = [answer for answer in pools[relation.answers] if answer != subject]
    return pick(others, "answer", subject, relation.name)


def _reserved_relations(kinds: dict[str, list[str]]) -> dict[str, str]:
    """The one reserved relation of each subject that has one; taken in turn, so all have some."""
    chosen: dict[str, str] = {}
    for kind, count in _RESERVED_SUBJECTS.items():
        own = [relation.name for relation in relations() if relation.kind == kind]
        for number, subject in enumerate(shuffled(kinds[kind], "reserved")[:count]):
            chosen[subject] = own[number % len(own)]
    return chosen


def _tune_subjects(kinds: dict[str, list[str]]) -> set[str]:
    """The same share of the subjects of every kind."""
    shares = {kind: round(_TUNE_SHARE * len(members)) for kind, members in kinds.items()}
    return {
        subject
        for kind, members in kinds.items()
        for subject in shuffled(members, "part")[: shares[kind]]
    }


def _other_answer(fact: Fact, answers: list[str]) -> str:
    others = sorted(set(answers) - {fact.answer, fact.subject})
    return pick(others, "target", fact.fact_id)


def _rephrases(fact: Fact, relation: Relation) -> tuple[str, ...]:
    lines = shuffled(relation.held_out, "rephrase", fact.fact_id)[:2]
    return tuple(line.format(s=fact.subject) for line in lines)


def _locality(
    fact: Fact, near: list[Fact], same: list[Fact], far: list[Fact]
) -> tuple[Question, ...]:
    """Questions near, at the same subject, and far, of facts that no trial edits."""
    counted = (("near", near, _NUM_NEAR), ("same", same, _NUM_SAME), ("far", far, _NUM_FAR))
    return tuple(
        Question(other.prompt, other.answer, f"locality_{kind}")
        for kind, candidates, count in counted
        for other in shuffled(candidates, kind, fact.fact_id)[:count]
    )
