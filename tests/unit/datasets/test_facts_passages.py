"""Passages about the subjects of the made-up world."""

from __future__ import annotations

from trainables.datasets import facts_passages
from trainables.interfaces import EditRecord, Question

FAR = Question("Who wrote Tides?", "Ivo Marsh", "locality_far")
NEAR = Question("Where was Ivo born?", "Orm", "locality_near")


def test_made_up_passage_tells_two_truths_and_edits_the_third() -> None:
    def record(
        number: int, subject: str = "Ada", locality: tuple[Question, ...] = (NEAR, FAR)
    ) -> EditRecord:
        return EditRecord(
            f"{subject}/{number}",
            f"What is fact {number} of {subject}?",
            f"new {number}",
            subject,
            locality=locality,
            true_answer=f"old {number}",
        )

    records = [record(1), record(1, "Ivo"), record(2), record(2, "Ivo"), record(3), record(4)]
    [passage] = facts_passages.passages(records)  # of Ivo there are two facts alone
    assert passage.prompt == (
        "This is a passage about Ada. What is fact 1 of Ada? old 1. What is fact 2 of Ada? old 2."
    )
    assert passage.target_new == "What is fact 3 of Ada? new 3."
    assert (passage.record_id, passage.subject) == ("passage/Ada/3", "Ada")
    assert passage.locality == (FAR,)
    without_far = [record(n, locality=(NEAR,)) for n in (1, 2, 3)]
    assert facts_passages.passages(without_far) == ()


def test_made_up_passages_of_the_world_are_as_many_as_its_yaml_says() -> None:
    assert len(facts_passages.records("report")) == 112
    assert len(facts_passages.records("tune")) == 48


def test_digest_is_what_it_was_when_the_first_results_were_written() -> None:
    assert facts_passages.digest().startswith("e0ec2b2b46253672")
