"""Asks an unedited backbone for the true answers of facts, and keeps what it answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.artefacts import Artefacts
from trainables.backbones.forward.split import Split
from trainables.edits.known import Fact, digest
from trainables.interfaces import Backbone, EditRecord, Json, State
from trainables.metrics.evaluator import BATCH_SIZE, Evaluator
from trainables.pulse import pulse

KIND = "known"  # of the artefact


def inputs_of(identity: Mapping[str, Json], facts: Sequence[Fact]) -> dict[str, Json]:
    """All that decides which of `facts` a backbone with this identity answers rightly."""
    return {**identity, "facts": digest(facts)}


def known_facts(facts: Sequence[Fact], backbone: Backbone, artefacts: Artefacts) -> frozenset[Fact]:
    """The facts whose answer the backbone gives: every token of it, teacher forced.

    That is the measure `exact` of a trial. The backbone is asked once for each set of facts, and
    the answer shared by all trials.

    Args:
        facts: Each is a prompt and its true answer.
        backbone: Unedited.
        artefacts: Where the answer is kept.
    """
    if not facts:
        return frozenset()

    def build() -> State:
        pulse().stage("asking the backbone what it knows")
        records = [EditRecord(str(n), *fact) for n, fact in enumerate(facts)]
        evaluator = Evaluator(
            backbone.tokenizer,
            records,
            batch_size=backbone.micro_batch.at_most(BATCH_SIZE),
            max_positions=backbone.max_positions,
            device=backbone.device,
        )
        # Nothing is kept of the layers below: most of these prompts are never read again.
        split = Split(backbone, 0, artefacts.prefix_cache)
        with backbone.micro_batch.undivided():  # stored: other ranks read it
            answers = evaluator.answers(split.logits, evaluator.select())
        exact = {each.record: each.exact for each in evaluator.score(answers, {})}
        return State(values={"known": [int(exact[n] == 1.0) for n in range(len(facts))]})

    state = artefacts.get(KIND, inputs_of(backbone.identity, facts), build)
    return answered(facts, state)


def answered(facts: Sequence[Fact], state: State) -> frozenset[Fact]:
    """The facts that a stored answer calls known."""
    known = state.values["known"]
    assert isinstance(known, list)
    return frozenset(fact for fact, is_known in zip(facts, known, strict=True) if is_known)
