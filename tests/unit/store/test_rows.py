"""End rows of the ledger."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planning.cell import Cell, Resolved
from orchestrator.planning.identity import fingerprint
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings import loading as config
from orchestrator.store.rows import end_row, labelled

SPEC = TrialSpec(
    ablation="a",
    arm="b",
    seed=0,
    method={"name": "m", "module": "m"},
    backbone={"name": "tiny"},
    dataset={"name": "world"},
    protocol={"kind": "lifelong", "curve": True},
    swept={},
)


def test_end_row_puts_the_curve_behind_the_rungs_and_not_among_the_numbers() -> None:
    cell = Cell("key", SPEC, Resolved("aa", "bb", 1, {"count.excluded": 2.0}))
    rung = {"edits_seen": 4, "reliability.token.rung": 0.5}
    point = {"edits_seen": 2, "reliability.token.curve": 1.0}
    row = {"status": "finished", "progress": 1.0, "curve": [point], "stale_rate": 0.25}
    end = end_row(cell, row, stop_reason=None, checkpoints=[rung], provenance={})
    assert end.checkpoints == [rung, point]
    assert end.metrics == {"progress": 1.0, "stale_rate": 0.25, "count.excluded": 2.0}
    assert end.stop_reason == "completed"


def test_run_of_a_trial_names_all_that_made_it() -> None:
    sweep = config.load(["ablation=smoke", "backbone=gpt2_xl"])
    backbone = expand(sweep).trials[0].backbone
    cell = Cell("key", replace(expand(sweep).trials[0], seed=3), Resolved("aa", "bb", 1))
    row = {"status": "finished", "device": "cuda", "gpu": "a card", "hostname": "node-1"}
    made = {"commit": "c", "is_dirty": "false", "ray_version": "2", "torch_version": "3"}
    end = end_row(
        cell, row, stop_reason=None, checkpoints=[], provenance={**made, "packages": "abcd"}
    )
    tags = labelled(end, cell.spec, sweep).tags
    assert backbone["revision"]
    expected = {
        **made,
        "packages": "abcd",
        "backbone_model": backbone["model"],
        "backbone_revision": backbone["revision"],
        "backbone_fingerprint": "aa",
        "dataset_digest": "bb",
        "seed": 3,
        "host": "node-1",
        "gpu": "a card",
        "device": "cuda",
    }
    assert {name: tags[name] for name in expected} == expected


def test_row_tells_the_micro_batch_that_a_trial_ended_with() -> None:
    cell = Cell("key", SPEC, Resolved("aa", "bb", 1))
    found = []
    for row in ({"micro_batch": 16, "device": "cuda"}, {"device": "cpu"}, {}):
        ended = {"status": "finished", "progress": 1.0, **row}
        end = end_row(cell, ended, stop_reason=None, checkpoints=[], provenance={})
        found.append((end.micro_batch, end.metrics.get("micro_batch")))
    assert found == [("16", 16), ("whole", None), ("", None)]


def test_identity_names_a_generation_version_only_where_there_is_one() -> None:
    plain = Resolved("aa", "bb", 1, {"count.excluded": 2.0})
    assert "generation_version" not in plain.identity
    longer = Resolved("aa", "bb", 1, generation_version=2)
    assert longer.identity == {**plain.identity, "generation_version": 2}
    assert fingerprint(SPEC, longer.identity) != fingerprint(SPEC, plain.identity)
