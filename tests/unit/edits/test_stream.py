"""What a trial edits, in which order and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from trainables.edits.drawing import Drawn, draw
from trainables.edits.sources import Source
from trainables.edits.stream import EditStream, edit_batches, edit_stream
from trainables.errors import ConfigError
from trainables.interfaces import Backbone, EditRecord
from trainables.prompts import tokenise
from trainables.spec import BackboneSpec, DatasetSpec, MethodSpec, ProtocolSpec, TrialSpec

TOPICS = ("Where was {} born?", "Which river feeds {}", "{} was written by")
RECORDS = tuple(
    EditRecord(f"r{n}", TOPICS[n % 3].format(f"name{n}"), f"answer {n}", f"name{n}", relation="any")
    for n in range(18)
)
SOURCE = Source(records=RECORDS, training=(), unrelated=(), digest="d")


def spec(seed: int = 0, **protocol: Any) -> TrialSpec:
    values = {"num_edits": 4, "order": "given", "target_ends_with_eos": True, **protocol}
    return TrialSpec(
        MethodSpec("any", "any"),
        BackboneSpec("any", "any", "float32"),
        DatasetSpec("any", "report"),
        ProtocolSpec(**{"kind": "lifelong", **values}),
        seed,
    )


def serial(**changes: Any) -> TrialSpec:
    counts = {"num_questions": 3, "answers_per_question": 2, "edit_batch_size": 1}
    return spec(kind="serial", **{**counts, **changes})


def test_latest_holds_the_newest_record_of_each_question_and_outdated_the_rest() -> None:
    stream = EditStream([[0, 1], [2], [3], [4], [5]], (0, 1, 2, 0, 1, 2))
    assert stream.latest(2) == [0, 1]
    assert stream.latest(4) == [3, 1, 2]  # question 0 was answered anew by record 3
    assert stream.outdated() == [0, 1, 2]
    assert stream.earlier() == {0: (), 1: (), 2: (), 3: (0,), 4: (1,), 5: (2,)}
    plain = EditStream([[2, 0], [1]])
    assert plain.latest(3) == [2, 0, 1]
    assert plain.outdated() == []


def test_draw_serial_makes_every_answer_a_record(llama: Backbone) -> None:
    drawn = draw(serial(), SOURCE)
    assert drawn.questions == (0, 1, 2, 0, 1, 2)
    assert len({record.prompt for record in drawn.records}) == 3
    assert drawn.counts == {"answers_topped_up": 0}
    with pytest.raises(ConfigError, match=r"protocol\.num_questions is 19; .*\[1, 18\]"):
        draw(serial(num_questions=19), SOURCE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[0], [1], [2], [3], [4], [5]]),
        (2, [[0, 1], [2], [3, 4], [5]]),  # no batch reaches from one round into the next
        (3, [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_serial_batches_stay_within_a_round(
    llama: Backbone, size: int, expected: list[list[int]]
) -> None:
    wanted = serial(edit_batch_size=size)
    assert edit_batches(wanted, llama, draw(wanted, SOURCE)) == expected


def test_serial_random_order_shuffles_every_round_anew(llama: Backbone) -> None:
    wanted = serial(num_questions=12, order="random", edit_batch_size=12)
    first, second = edit_batches(wanted, llama, draw(wanted, SOURCE))
    assert sorted(first) == list(range(12))
    assert sorted(second) == list(range(12, 24))
    assert [record + 12 for record in first] != second
    with pytest.raises(ConfigError, match=r"protocol.order is 'kmeans_filled'.*given or random"):
        edit_batches(serial(order="kmeans_filled"), llama, draw(serial(), SOURCE))


def test_serial_update_order_and_its_seed_are_obeyed(llama: Backbone) -> None:
    bursts = serial(update_order="bursts")
    assert edit_batches(bursts, llama, draw(bursts, SOURCE)) == [[0], [3], [1], [4], [2], [5]]

    def shuffled(**changes: Any) -> list[list[int]]:
        wanted = serial(num_questions=12, update_order="random", **changes)
        drawn = draw(wanted, SOURCE)
        assert drawn == draw(serial(num_questions=12), SOURCE)  # the same edits in any order
        return edit_batches(wanted, llama, drawn)

    assert shuffled() == shuffled(order_seed=0)  # the trial's own seed is 0
    assert shuffled() != shuffled(order_seed=1)


def test_serial_batch_larger_than_a_round_is_refused(llama: Backbone) -> None:
    wanted = serial(edit_batch_size=4)
    with pytest.raises(ConfigError, match=r"edit_batch_size is 4; it must lie in \[1, 3\]"):
        edit_batches(wanted, llama, draw(wanted, SOURCE))


def test_order_seed_changes_the_order_and_not_the_draw(llama: Backbone) -> None:
    def batches(**changes: Any) -> tuple[Drawn, list[list[int]]]:
        wanted = spec(kind="lifelong", num_edits=9, order="random", edit_batch_size=3, **changes)
        drawn = draw(wanted, SOURCE)
        return drawn, edit_batches(wanted, llama, drawn)

    own, other, again = batches(), batches(order_seed=7), batches(order_seed=0)
    assert own[0] == other[0]
    assert own[1] != other[1]
    assert own[1] == again[1]  # the trial's own seed is 0


def test_prompts_are_clustered_by_what_reads_them_where_the_order_clusters(
    llama: Backbone,
) -> None:
    asked = list[list[str]]()

    def read(prompts: Sequence[str]) -> np.ndarray:
        asked.append(list(prompts))
        return np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])

    wanted = spec(kind="lifelong", num_edits=4, order="kmeans_filled", edit_batch_size=2)
    drawn = draw(wanted, SOURCE)
    assert edit_batches(wanted, llama, drawn, read) == [[0, 2], [1, 3]]
    assert asked == [[record.prompt for record in drawn.records]]
    given = spec(kind="lifelong", num_edits=4, order="given", edit_batch_size=2)
    assert edit_batches(given, llama, drawn, read) == [[0, 1], [2, 3]]
    assert len(asked) == 1  # no need to ask


def test_group_sizes_draw_so_many_of_each_group_for_every_batch() -> None:
    drawn = draw(spec(kind="batch", num_batches=2, group_sizes=[2, 1, 0]), SOURCE)
    groups = [SOURCE.group_of[record.prompt] for record in drawn.records]
    assert groups == [0, 0, 1, 0, 0, 1]
    assert len({record.record_id for record in drawn.records}) == 6
    with pytest.raises(ConfigError, match=r"group_sizes is \[4, 0, 0\]; group 1 .* holds 6 .* 8"):
        draw(spec(kind="batch", num_batches=2, group_sizes=[4, 0, 0]), SOURCE)


def test_similarities_of_batches_are_those_of_prompt_and_target(llama: Backbone) -> None:
    wanted = spec(kind="lifelong", num_edits=3, edit_batch_size=2)
    drawn = draw(wanted, SOURCE)
    numbers = edit_stream(wanted, llama, drawn, SOURCE).numbers
    table = llama.embedding.weight.detach().numpy().astype(np.float64)
    means = [
        table[list(tokenise(llama.tokenizer, r.prompt, r.target_new).ids)].mean(0)
        for r in drawn.records
    ]
    # Eq. 7: the one pair of the first batch (the second has none); Eq. 8: the pair of batch means
    assert numbers["within_batch_similarity"] == pytest.approx(cosine(means[0], means[1]), abs=1e-6)
    between = cosine((means[0] + means[1]) / 2, means[2])
    assert numbers["between_batch_similarity"] == pytest.approx(between, abs=1e-6)


def test_similarities_are_left_out_where_there_is_no_pair(llama: Backbone) -> None:
    def numbers(**changes: Any) -> Mapping[str, float]:
        wanted = spec(**changes)
        return edit_stream(wanted, llama, draw(wanted, SOURCE), SOURCE).numbers

    assert numbers(kind="batch") == {}  # rolled back: no order, nothing between batches
    assert set(numbers(kind="lifelong", edit_batch_size=4)) == {"within_batch_similarity"}
    assert set(numbers(kind="lifelong", edit_batch_size=1)) == {"between_batch_similarity"}


def cosine(one: Any, two: Any) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
