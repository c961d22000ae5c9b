"""Means, intervals and states, by hand."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import aggregate
from analysis.aggregate import sections
from analysis.intervals import interval_over_seeds, intervals_over_subjects
from analysis.reading import runs

SCORES = ("reliability", "generality", "locality")


def trial(arm: str = "a", seed: int = 0, started: int = 1, **tags: str) -> pd.DataFrame:
    """The row of one trial; `values`: its final scores, space separated."""
    values = tags.pop("values", "0.6 0.3 0.9")
    base: dict[str, Any] = dict.fromkeys((*runs.TAGS, "store"), "")
    base |= {"fingerprint": f"{arm}{seed}", "arm": arm, "backbone": "b", "dataset": "d"}
    base |= {"protocol": json.dumps({"kind": "batch", "num_edits": 4}), "status": "finished"}
    base |= {"swept": "{}", "published": "{}", "ablation": "x", **tags}
    run_id = f"{base['ablation']} {base['fingerprint']}@{started}"
    base |= {"seed": seed, "run_id": run_id, "records": "", "started": started}
    found = zip(SCORES, values.split(), strict=False)
    return pd.DataFrame(
        [{**base, "metrics": {f"{name}.token.final": float(v) for name, v in found}}]
    )


def arms(*trials: pd.DataFrame) -> dict[str, aggregate.Arm]:
    found = sections(pd.concat(trials, ignore_index=True))
    assert len(found) == 1
    return {arm.name: arm for arm in found[0].arms}


def test_interval_over_seeds_when_three_seeds_then_students_t() -> None:
    # mean .9, s = .1, t(.975, 2) = 4.3027: half = 4.3027 * .1 / sqrt(3) = .24841
    found = interval_over_seeds([0.8, 0.9, 1.0])
    assert found is not None
    low, high = found
    assert low == pytest.approx(0.9 - 0.248414, abs=1e-6)
    assert high == pytest.approx(0.9 + 0.248414, abs=1e-6)


def test_interval_over_seeds_when_two_seeds_then_none() -> None:
    assert interval_over_seeds([0.8, 0.9]) is None


def test_sections_when_all_seeds_ended_then_mean_over_seeds() -> None:
    arm = arms(trial(seed=0, values="0.8 0.5 1"), trial(seed=1, values="0.6 0.5 1"))["a"]
    assert arm.state == ""
    assert arm.scores["reliability"].mean == pytest.approx(0.7)
    assert arm.scores["reliability"].num_seeds == 2
    assert arm.scores["reliability"].source == "none"
    # seed 0: (.8 + .5 + 1) / 3 = .76667; seed 1: (.6 + .5 + 1) / 3 = .7; mean .73333
    assert arm.scores["average"].mean == pytest.approx(0.733333, abs=1e-6)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (["finished", "failed", "finished"], "failed 1/3"),
        (["diverged", "diverged"], "diverged"),
        (["diverged", "finished"], "diverged 1/2"),
        (["stopped", "stopped", "finished"], "pruned 2/3"),
        (["failed", "stopped", "finished"], "failed 1/3, pruned 1/3"),
        (["", "finished"], "unfinished 1/2"),
    ],
)
def test_sections_when_a_seed_did_not_end_then_no_mean(outcomes: list[str], state: str) -> None:
    trials = [trial(seed=i, status=s, stop_reason="asha") for i, s in enumerate(outcomes)]
    arm = arms(*trials)["a"]
    assert arm.state == state
    assert arm.scores == {}


def test_sections_when_a_trial_timed_out_then_it_says_so() -> None:
    assert arms(trial(status="stopped", stop_reason="timeout"))["a"].state == "timed out 1/1"


def test_sections_when_a_score_is_missing_in_one_seed_then_it_has_no_mean() -> None:
    arm = arms(trial(seed=0), trial(seed=1, values="0.6"))["a"]
    assert set(arm.scores) == {"reliability"}


def test_sections_when_a_trial_was_run_again_then_the_latest_counts() -> None:
    failed = trial(status="failed", values="", error="lost", started=1)
    arm = arms(failed, trial(values="0.5 0.5 0.5", started=2))["a"]
    assert arm.state == ""
    assert arm.scores["average"].mean == pytest.approx(0.5)


def test_sections_when_settings_changed_between_seeds_then_they_are_not_mixed() -> None:
    old = [trial(seed=s, fingerprint=f"old{s}", arm_fingerprint="old") for s in range(3)]
    new = trial(seed=0, fingerprint="new0", arm_fingerprint="new", values="1 1 1", started=9)
    (section,) = sections(pd.concat([*old, new], ignore_index=True))
    assert section.arms[0].seeds == (0,)
    assert section.arms[0].scores["reliability"].mean == 1
    assert section.num_superseded == 3


def test_sections_when_a_setting_gets_more_seeds_then_its_older_ones_count_too() -> None:
    old = [trial(seed=s, fingerprint=f"old{s}", arm_fingerprint="old") for s in range(2)]
    between = [
        trial(seed=s, fingerprint=f"other{s}", arm_fingerprint="other", started=5) for s in range(2)
    ]
    more = trial(seed=2, fingerprint="old2", arm_fingerprint="old", started=9)
    (section,) = sections(pd.concat([*old, *between, more]))
    assert section.arms[0].seeds == (0, 1, 2)
    assert section.num_superseded == 2


def test_sections_when_two_ablations_share_a_trial_then_it_counts_in_both() -> None:
    shared = [trial(ablation=name) for name in ("layers", "experts")]
    (section,) = sections(pd.concat(shared))
    assert {arm.ablation for arm in section.arms} == {"layers", "experts"}
    assert section.num_superseded == 0


def test_sections_when_many_trials_started_together_then_all_count() -> None:
    trials = [trial(arm, seed, started=1 + seed // 2) for arm in "ab" for seed in range(60)]
    # As they are read from a store, where a sort that is not stable shuffles what is equal.
    rows = pd.concat(trials, ignore_index=True).astype({"started": object})
    found = arms(rows)
    assert [len(found[arm].seeds) for arm in "ab"] == [60, 60]


def test_sections_when_backbones_differ_then_newest_first_and_apart() -> None:
    found = sections(pd.concat([trial(), trial(fingerprint="z", backbone="c", started=5)]))
    assert [section.context["backbone"] for section in found] == ["c", "b"]


def test_sections_when_a_protocol_key_may_vary_then_arms_stand_together() -> None:
    long = json.dumps({"kind": "batch", "num_edits": 8})
    rows = pd.concat([trial(), trial(fingerprint="z", protocol=long)])
    assert len(sections(rows)) == 2
    (section,) = sections(rows, varying=("num_edits",))
    assert section.protocol == {"kind": "batch"}
    assert [arm.protocol["num_edits"] for arm in section.arms] == [4, 8]


def test_sections_when_a_failed_trial_lacks_digests_then_it_counts_in_its_arm() -> None:
    good = trial(seed=0, backbone_fingerprint="f", dataset_digest="g")
    lost = trial(seed=1, status="failed", values="", error="no memory")
    arm = arms(good, lost)["a"]
    assert arm.state == "failed 1/2"
    assert arm.errors == ("no memory",)


def questions(subject: str, hits: list[int], score: str = "reliability") -> pd.DataFrame:
    return pd.DataFrame({"subject": subject, "score": score, "token": hits})


def test_intervals_over_subjects_when_two_subjects_disagree_then_from_none_to_all() -> None:
    # Draws of two subjects: {0,0}: 0, {0,1}: .5, {1,1}: 1 with chances 1/4, 1/2, 1/4.
    records = pd.concat([questions("s", [0, 0]), questions("t", [1, 1])])
    assert intervals_over_subjects([records], "token")["reliability"] == (0.0, 1.0)


def test_intervals_over_subjects_when_one_subject_then_none() -> None:
    assert intervals_over_subjects([questions("s", [0, 1])], "token") == {}


def test_intervals_over_subjects_when_the_measure_is_absent_then_none() -> None:
    records = pd.concat([questions("s", [0]), questions("t", [1])])
    assert intervals_over_subjects([records], "generated") == {}


def test_intervals_over_subjects_when_seeds_ask_unequally_then_each_counts_alike() -> None:
    # One hit of one in the first seed, none of twelve in the second: 1/2 over seeds, 1/13 over
    # questions. A resample of 13 that holds `a` k times has the mean k / (k + (13 - k) / 12); k is
    # binomial, of mean 1: 0 in 35 % of them, at most 3 in 98.5 %, at most 2 in 92.7 %.
    first = questions("a", [1])
    second = pd.concat([questions(f"b{n}", [0]) for n in range(12)])
    low, high = intervals_over_subjects([first, second], "token")["reliability"]
    assert (low, high) == (0.0, pytest.approx(3 / (3 + 10 / 12)))


def test_intervals_over_subjects_when_seeds_ask_equally_then_all_subjects_are_one_pool() -> None:
    # The seeds differ and the subjects of each do not: what differs between seeds counts.
    first = pd.concat([questions(f"a{n}", [1]) for n in range(4)])
    second = pd.concat([questions(f"b{n}", [0]) for n in range(4)])
    found = intervals_over_subjects([first, second], "token")
    assert found == intervals_over_subjects([pd.concat([first, second])], "token")
    assert found["reliability"] == (0.125, 0.875)  # binomial: 1 and 7 of 8, at 3.5 % and 96.5 %


def test_sections_when_one_seed_has_records_then_a_bootstrap_over_subjects() -> None:
    records = pd.concat(
        [questions(s, hits, score) for s, hits in (("s", [0]), ("t", [1])) for score in SCORES]
    )
    (section,) = sections(trial(), records=lambda address, dataset: records)
    average = section.arms[0].scores["average"]
    assert (average.source, average.low, average.high) == ("bootstrap", 0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([0, 1]), min_size=2, max_size=12))
def test_intervals_over_subjects_when_any_hits_then_the_mean_lies_within(hits: list[int]) -> None:
    records = pd.concat([questions(f"s{i}", [hit]) for i, hit in enumerate(hits)])
    low, high = intervals_over_subjects([records], "token")["reliability"]
    assert 0 <= low <= sum(hits) / len(hits) <= high <= 1
