"""Every published table and figure that has a layout, found by itself: its arms find their place.

Arms are those that the ablations which answer it plan, all with the same scores; where none does
yet, one for each row that the paper prints.
"""

from __future__ import annotations

from functools import cache

import pytest

from analysis.aggregate import Arm
from analysis.layouts.catalogue import get_layout, known_layouts
from analysis.layouts.layout import NOT_RUN
from analysis.metrics import METRICS
from analysis.published.compare import KIND_OF_SETTING
from analysis.published.paper_numbers import PaperRow, load
from orchestrator.planning.plan import TrialSpec, expand
from orchestrator.settings.loading import load_plain
from orchestrator.settings.yaml_files import SearchSpaces
from tests.planned_arms import arm_of, made_arm, section

SPACES = SearchSpaces()
AXES = {
    "method.edit_layer": "layer",
    "method.num_experts": "num_experts",
    "method.top_k": "top_k",
    "method.lora_rank": "lora_rank",
    "protocol.num_edits": "num_edits",
    "protocol.num_questions": "num_concepts",
}


@cache
def planned() -> dict[str, list[TrialSpec]]:
    """Published table -> the first trial of every arm that answers it."""
    found: dict[str, list[TrialSpec]] = {}
    for name in SPACES.names("ablation"):
        config = load_plain(SPACES, {"ablation": name})
        made = expand(config)
        trials = {trial.arm: trial for trial in made.trials or made.middles}
        for table in config.paper:
            found.setdefault(table, []).extend(trials.values())
    return found


def arm_like(row: PaperRow) -> Arm:
    """One that stands for a published row."""
    values = {key: getattr(row, column) for key, column in AXES.items()}
    known = {key: value for key, value in values.items() if value is not None}
    return made_arm(
        row.variant.rpartition("=")[2] or row.method,
        row.method,
        swept=known,
        published={key: [value] for key, value in known.items()},
        protocol={"kind": KIND_OF_SETTING[row.setting], "num_edits": row.num_edits},
        context={"backbone": row.model, "dataset": row.dataset},
    )


@pytest.mark.parametrize("name", known_layouts())
def test_every_layout_when_its_arms_ran_then_they_stand_in_it(name: str) -> None:
    layout = get_layout(name)
    assert layout.question
    printed = [row for each in layout.numbers_of(name) for row in load(each)]
    trials = planned().get(name, [])
    arms = [arm_of(trial) for trial in trials] or [arm_like(row) for row in printed]
    body = layout.arrange(section(arms), printed, False)
    entries = [entry for row in body.rows for entry in row.entries]
    own = [entry for entry in entries if not isinstance(entry.ours, str)]
    if layout.has_paper:
        assert own
        # The quick scale has models of its own; a table of models has no row for them to share.
        beside = any(isinstance(entry.paper, float) for entry in own)
        assert beside or "backbone" in layout.varying
    else:  # some are made of per-record results, of which these arms have none
        assert any(e.ours != NOT_RUN for e in entries) or body.footer or body.notes


@pytest.mark.parametrize(
    ("name", "method", "label"),
    [
        ("memoe_v1_table1", "comeba_hk", "COMEBA"),
        ("memoe_v1_table2", "comeba_hk", "COMEBA"),
        ("memoe_v2_table1", "comeba_hk", "COMEBA"),
        ("lemoe_table1", "defer", "DEFER"),
        ("lemoe_table1", "memit_mass", "MEMIT"),
    ],
)
def test_row_when_the_paper_has_another_name_for_a_method_then_ours_stands_beside_it(
    name: str, method: str, label: str
) -> None:
    (trial, *_) = [each for each in planned()[name] if each.method["name"] == method]
    printed = [row for row in load(name) if row.method_printed == label]
    body = get_layout(name).arrange(section([arm_of(trial)]), printed, False)
    both = [e for row in body.rows for e in row.entries if not isinstance(e.ours, str)]
    assert any(isinstance(entry.paper, float) for entry in both)


# A figure beside which another table's numbers stand picks some of them.
PRINTED = [
    name for name in known_layouts() if get_layout(name).has_paper and not get_layout(name).numbers
]


@pytest.mark.parametrize("name", PRINTED)
def test_every_table_when_arms_are_made_like_its_rows_then_the_papers_numbers_are_printed(
    name: str,
) -> None:
    layout = get_layout(name)
    printed = load(name)
    body = layout.arrange(section([arm_like(row) for row in printed]), printed, False)
    entries = [entry for row in body.rows for entry in row.entries]
    shown = {e.paper for e in entries if isinstance(e.paper, float)}
    columns = [
        name for name in METRICS if any(f"{key}_".startswith(f"{name}_") for key in body.scores)
    ]
    wanted = {row.scores[name] for row in body.paper for name in columns if name in row.scores}
    assert wanted
    assert wanted <= shown
