"""Arms that would stand under one label bear what tells them apart, and none is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import table
from analysis.aggregate import Arm
from analysis.layouts.labels import apart, distinct, named
from tests.unit.analysis_store import BATCH, LIFELONG, Writer, cell
from tests.unit.comparisons import arm

LARGE = BATCH | {"num_edits": 100, "edit_batch_size": 100}
SIX = BATCH | {"num_batches": 6}


def of(name: str, protocol: Mapping[str, Any], **more: Any) -> Arm:
    return replace(arm(name, 0.5), protocol=dict(protocol), **more)


def test_apart_when_nothing_is_shared_then_nothing_is_told() -> None:
    assert apart([of("a", BATCH), of("b", LARGE)], ["a", "b"]) == ("", "")


def test_apart_when_protocols_differ_then_what_differs_once() -> None:
    # the size of the one batch is that of its edits
    arms = [of("a", BATCH), of("a", LARGE), of("b", BATCH)]
    assert apart(arms, ["a", "a", "b"]) == ("num_edits 30", "num_edits 100", "")
    arms = [of("a", BATCH), of("a", LARGE), of("a", SIX)]
    assert apart(arms, ["x"] * 3) == (
        "num_edits 30, num_batches 1",
        "num_edits 100, num_batches 1",
        "num_edits 30, num_batches 6",
    )


def test_apart_when_names_differ_then_by_name() -> None:
    assert apart([of("a", BATCH), of("b", BATCH)], ["MEMIT"] * 2) == ("a", "b")


def test_apart_when_ablations_alone_differ_then_by_these() -> None:
    arms = [of("a", BATCH, ablation=name) for name in ("mine", "other")]
    assert [each.name for each in named(arms)] == ["a (ablation mine)", "a (ablation other)"]


def test_distinct_when_another_label_tells_them_apart_then_as_they_are() -> None:
    arms = [of("a", BATCH), of("a", LARGE)]
    assert distinct(arms, ["m", "m"], ["batch 30", "batch 100"]) == ("m", "m")
    both = ("m (num_edits 30)", "m (num_edits 100)")
    assert distinct(arms, ["m", "m"], ["batch", "batch"]) == both


def rows(
    store: Path, capsys: pytest.CaptureFixture[str], name: str, begins: str
) -> list[list[str]]:
    """The cells of the rows that begin so."""
    capsys.readouterr()
    assert table.main([name, f"store={store}"]) == 0
    lines = [each for each in capsys.readouterr().out.splitlines() if each.startswith("| ")]
    cells = [[cell.strip() for cell in each.split("|")[1:-1]] for each in lines]
    return [each for each in cells if each[0].startswith(begins)]


def write(store: Path, ablation: str, protocols: Sequence[Mapping[str, Any]], **tags: Any) -> None:
    """One arm named `memit` under each protocol, with scores .1, .2, ... and 30 s, 60 s, ..."""
    writer = Writer(store)
    for number, protocol in enumerate(protocols, start=1):
        own = {"method": "memit", "swept": {"method": "memit"}, "protocol": dict(protocol)} | tags
        own["fingerprint"] = f"{ablation} {number}"
        numbers = {"edit_seconds": 30.0 * number, "evaluation_seconds": 3.0}
        scores = (number / 10,) * 3
        writer.trial(ablation, "memit", 0, scores, numbers=numbers, **own)


@pytest.mark.parametrize(
    ("name", "protocols", "labels"),
    [
        ("mine", (BATCH, LARGE), ["memit (num_edits 30)", "memit (num_edits 100)"]),
        ("memoe_v2_table1", (BATCH, SIX), ["MEMIT (num_batches 1)", "MEMIT (num_batches 6)"]),
        ("memoe_v2_table5", (BATCH, SIX), ["MEMIT (num_batches 1)", "MEMIT (num_batches 6)"]),
        ("memoe_v2_table7", (BATCH, LARGE), ["memit (num_edits 30)", "memit (num_edits 100)"]),
    ],
)
def test_table_when_one_arm_ran_under_two_protocols_then_two_labels_and_both_numbers(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    protocols: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
) -> None:
    write(tmp_path, name, protocols, paper=name)
    found = rows(tmp_path, capsys, name, labels[0][:5])
    assert [each[0] for each in found] == labels
    if name != "memoe_v2_table7":  # whose answers are not there
        assert len({tuple(each[1:]) for each in found}) == 2


def test_costs_when_one_method_ran_under_two_protocols_then_each_has_its_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "memoe_batch", (BATCH, SIX), paper="memoe_v2_table5")
    found = rows(tmp_path, capsys, "memoe_v2_table5", "MEMIT")
    # 30 s over 30 edits, 60 s over 6 batches of 30
    assert [each[2].partition(" ")[0] for each in found] == ["1.00", "0.33"]


def test_everyone_when_a_protocol_differs_in_what_its_words_leave_out_then_the_method_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "everyone", (BATCH, SIX), paper="everyone")
    found = rows(tmp_path, capsys, "everyone", "batch 30")
    assert [each[1] for each in found] == ["memit (num_batches 6)", "memit (num_batches 1)"]


def test_as_printed_when_two_orders_were_run_then_differences_are_within_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    # .1 below in one order, .2 above in the other
    for order, working, printed in (("given", 0.5, 0.4), ("random", 0.1, 0.3)):
        for name, score in (("lemoe", working), ("lemoe_printed", printed)):
            own = {"paper": "as_printed", "method": "lemoe", "fingerprint": f"{name} {order}"}
            own["protocol"] = LIFELONG | {"order": order}
            writer.trial("as_printed", name, 0, (score,) * 3, **own)
    found = {each[1]: each[6] for each in rows(tmp_path, capsys, "as_printed", "lemoe")}
    assert found == {
        "lemoe (order given)": "-",
        "lemoe (order random)": "-",
        "lemoe_printed (order given)": "-0.10 (1)",
        "lemoe_printed (order random)": "0.20 (1)",
    }


def test_counts_when_arms_share_a_name_then_each_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    for number, protocol in enumerate((BATCH, LARGE), start=1):
        own = {"paper": "mine", "protocol": protocol, "fingerprint": str(number)}
        numbers = {"count.subject_absent": float(number)}
        writer.trial("mine", "memit", 0, (0.5, 0.5, 0.5), numbers=numbers, **own)
    assert table.main(["mine", f"store={tmp_path}"]) == 0
    said = "1 of 30 edits (memit (num_edits 30)), 2 of 100 edits (memit (num_edits 100))"
    assert said in capsys.readouterr().out


def test_table9_when_two_arms_stand_for_one_cell_then_both_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = Writer(tmp_path)
    for rate, score in ((0.1, 0.9), (0.2, 0.01)):
        tags = cell(18, 9, [512], 16)
        tags["swept"] |= {"method.edit_lr": rate}
        writer.trial("lemoe_lora", f"lr={rate}", 0, (score,) * 3, **tags)
    assert table.main(["lemoe_table9", f"store={tmp_path}"]) == 0
    said = "over 2 published cells (1 different ones, several arms stand for one): passed by ours "
    assert f"{said}and printed 1, passed by ours only 0, printed only 1" in capsys.readouterr().out
