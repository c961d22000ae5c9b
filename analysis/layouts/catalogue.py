"""Finds the layout of a published table by its id, and holds most of these layouts.

A table that needs code of its own is a file of `special`, named by its id, that holds a `LAYOUT`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from analysis.layouts import generic
from analysis.layouts.ability import ability_layout
from analysis.layouts.curves import forgetting
from analysis.layouts.directions import (
    BY_BATCH,
    BY_KIND,
    BY_PANEL,
    BY_PROTOCOL,
    EDITS,
    QUESTIONS,
    by_backbone,
    by_count,
    by_key,
    by_method,
    by_variant,
)
from analysis.layouts.failures import failures
from analysis.layouts.grid import grid_layout
from analysis.layouts.layout import SCORES, Layout
from analysis.layouts.matrix import Matrix, only
from analysis.metrics import AVERAGED, headings
from analysis.published.paper_numbers import PaperRow

_SIZES = ("num_edits", "edit_batch_size", "num_batches", "num_questions", "answers_per_question")
_ANY_KIND = ("kind", "order", "answers", *_SIZES)
_STREAM = ("order", "edit_batch_size", "num_batches")  # each method its own, in one stream
_BATCHES = ("num_batches",)  # each panel its own: of batches that are rolled back the sample size

_METRICS = headings(AVERAGED)
_ROUTING = headings(["routing_consistency", "routing_purity", "largest_load"])
_PERPLEXITY = headings(["perplexity.mean", "perplexity.median"])  # of passages; printed: the mean
_SERIAL = headings(["stale_rate", "own_expert_rate", "edit_state_bytes"])
_ROUTED = _METRICS | {"own_expert_rate": "Route Acc."}

_MEMOE_V1 = by_method({"memoe_v1": "MEMoE", "comeba_hk": "COMEBA"})
# The row MEMIT of LEMoE's streams is MEMIT-MASS (Appendix B.2).
_LEMOE_STREAM = by_method({"memoe_v1": "MEMoE", "memit_mass": "MEMIT"})
_MEMOE_V2 = by_method({"memoe_v2": "MEMoE", "comeba_hk": "COMEBA"})
# ARM fine-tunes one output projection of layer 21, which is what LEMoE calls FT-L.
_ARM = by_method({"ft_l": "FT"})
_EDITS = by_count(EDITS, "T", lambda row: row.num_edits)
_QUESTIONS = by_count(QUESTIONS, "T", lambda row: row.num_concepts)
_STALE = "stale: share of questions answered with an outdated answer, word for word"
_MB = "MB: what the edits add to the model, in 10^6 bytes"


def _number_in(row: PaperRow) -> float | None:
    """The value in a variant such as `epsilon=0.25`."""
    return float(row.variant.rpartition("=")[2]) if "=" in row.variant else None


_MEMOE_TABLES: Mapping[str, Layout] = {
    "memoe_v1_table1": Matrix(_MEMOE_V1, extras=_ROUTING).layout(
        "MEMoE v1 Table 1: batch editing, by method", _STREAM
    ),
    "memoe_v1_table2": Matrix(_MEMOE_V1, extras=_ROUTING).layout(
        "MEMoE v1 Table 2: sequential batch editing, by method", _STREAM
    ),
    "memoe_v1_table3": Matrix(
        by_variant("Edits per group", shows_method=False),
        scores={
            **headings(["routing_consistency_similar"]),
            "routing_consistency": "Same",
            **headings(["generality", "reliability", "locality"]),
        },
        extras=headings(["routing_purity", "largest_load"]),
        notes=(
            "similar: share of a group's edits routed where most of the group goes; same: share of "
            "a rephrase's tokens routed where most of its edit goes",
        ),
    ).layout(
        "MEMoE v1 Table 3: routing consistency against concentration on one group",
        ("group_sizes", *_SIZES),
    ),
    "memoe_v1_table4": only(Matrix(BY_BATCH), "memoe_v1").layout(
        "MEMoE v1 Table 4: size of the batch, against a stream of batches", _ANY_KIND
    ),
    "memoe_v1_table5": Matrix(by_variant("Routing input"), extras=_ROUTING).layout(
        "MEMoE v1 Table 5: what the router reads"
    ),
    "memoe_v1_table6": grid_layout(
        "MEMoE v1 Table 6: layer, number of experts and top-k",
        {
            "method.edit_layer": "layer",
            "method.num_experts": "num_experts",
            "method.top_k": "top_k",
        },
    ),
    "memoe_v1_figure4": only(
        Matrix(
            BY_PANEL,
            extras=_ROUTING,
            notes=("paper: the figure has no numbers; beside ours stand those of its Table 6",),
        ),
        "memoe_v1",
    ).layout(
        "MEMoE v1 Figure 4: number of experts, layer and routing",
        _BATCHES,
        numbers=["memoe_v1_table6"],
    ),
    "memoe_v1_figure3": ability_layout("MEMoE v1 Figure 3", without="memoe_v2"),
    "memoe_v2_figure3": ability_layout("MEMoE v2 Figure 3", without="memoe_v1"),
    "memoe_v2_table1": Matrix(_MEMOE_V2, BY_PROTOCOL).layout(
        "MEMoE v2 Table 1: batch and sequential batch editing, by method", _ANY_KIND
    ),
    "memoe_v2_table2": Matrix(by_variant(), extras=_ROUTING).layout(
        "MEMoE v2 Table 2: which component of MEMoE matters"
    ),
    "memoe_v2_table4": Matrix(by_backbone(), BY_PROTOCOL, is_one_block=False).layout(
        "MEMoE v2 Table 4: four protocols, by model", ("backbone", *_ANY_KIND)
    ),
    "memoe_v2_table6": only(Matrix(BY_BATCH), "memoe_v2").layout(
        "MEMoE v2 Table 6: size of the batch, against a stream of batches", _ANY_KIND
    ),
    "memoe_v2_figure4": only(Matrix(BY_PANEL, extras=_ROUTING), "memoe_v2").layout(
        "MEMoE v2 Figure 4: number of experts, layer and routing", _BATCHES, has_paper=False
    ),
}

_LEMOE_TABLES: Mapping[str, Layout] = {
    "lemoe_table1": Matrix(_LEMOE_STREAM, _EDITS, extras=_PERPLEXITY).layout(
        "LEMoE Table 1: lifelong editing, by method and number of edits",
        ("num_edits", *_STREAM),
    ),
    "lemoe_table2": Matrix(_MEMOE_V1).layout("LEMoE Table 2: batch editing, by method"),
    "lemoe_table3": Matrix(_LEMOE_STREAM, _EDITS).layout(
        "LEMoE Table 3: longer streams, by method and number of edits", ("num_edits", *_STREAM)
    ),
    "lemoe_table4": Matrix(by_variant()).layout(
        "LEMoE Table 4: which component of LEMoE matters",
        ("order",),  # two variants are orders of the edits
    ),
    "lemoe_figure2": forgetting(
        "LEMoE Figure 2, left: reliability by batch, right after it and at the end",
        {"reliability.immediate": "Rel. at once", "reliability": "Rel. at the end"},
        1,
        "near 1.00 at once, about 0.6 at the end, near 0 for some early batches",
    ),
    "lemoe_figure5": forgetting(
        "LEMoE Figure 5: all three scores by four batches, right after them and at the end",
        {
            f"{name}{when}": f"{head} {label}"
            for name, head in _METRICS.items()
            for when, label in ((".immediate", "at once"), ("", "at the end"))
        },
        4,
        "reliability and generality are forgotten, locality stays above 0.97",
    ),
    "lemoe_table8": grid_layout(
        "LEMoE Table 8: FFN experts, by layer", {"method.edit_layer": "layer"}
    ),
}

_ARM_TABLES: Mapping[str, Layout] = {
    "arm_table1": Matrix(_ARM, _QUESTIONS, extras=_SERIAL, notes=(_STALE, _MB)).layout(
        "ARM Table 1: serial editing, by method and number of questions", _ANY_KIND[1:]
    ),
    "arm_table2": Matrix(_ARM, _EDITS).layout(
        "ARM Table 2: plain lifelong editing, by method and number of edits", _ANY_KIND[1:]
    ),
    "arm_table3": Matrix(by_variant(), extras=_SERIAL, notes=(_STALE,)).layout(
        "ARM Table 3: which component of ARM matters"
    ),
    "arm_table4": Matrix(
        by_variant("Selection"),
        scores=_ROUTED,
        extras=headings(["stale_rate"]) | _ROUTING,
        notes=("route acc.: share of edits routed to the expert that learnt them last", _STALE),
    ).layout("ARM Table 4: which expert learns an edit"),
    "arm_table5": Matrix(
        by_variant("Routing"), BY_KIND, scores=_METRICS, extras=_SERIAL, notes=(_STALE,)
    ).layout("ARM Table 5: routing at inference, in both protocols", _ANY_KIND),
    "arm_table9": Matrix(
        by_key("method.selection_threshold", "epsilon", _number_in),
        extras=_SERIAL,
        notes=(_STALE,),
    ).layout("ARM Table 9: the threshold of expert selection"),
    "arm_table11": Matrix(by_variant("Augmentation"), BY_KIND).layout(
        "ARM Table 11: input augmentation, in both protocols", _ANY_KIND
    ),
    "arm_table13": Matrix(
        by_variant("Merging"), scores=_ROUTED, extras=_SERIAL, notes=(_STALE,)
    ).layout("ARM Table 13: how the experts are merged"),
    "arm_figure4a": Matrix(
        by_key("method.num_experts", "K", lambda row: row.num_experts, shows_ours=False),
        by_key("method.mask_ratio", "rho", lambda _: None, prefix="rho="),
        scores=headings(["reliability", "average"]),
    ).layout("ARM Figure 4a: number of experts and mask ratio", has_paper=False),
    "arm_figure4b": Matrix(
        replace(by_variant("Method"), ours=None),  # one method, merged and not: two rows
        _QUESTIONS,
        scores=headings(["edit_state_bytes", "average"]),
        notes=(_MB,),
    ).layout(
        "ARM Figure 4b: memory of the edits, by method and number of questions",
        _ANY_KIND[1:],
        has_paper=False,
    ),
    "arm_figure4c": Matrix(
        replace(by_variant("Merging"), ours=None),
        BY_KIND,
        scores=SCORES | headings(["edit_state_bytes"]),
        extras=headings(["own_expert_rate"]),
        notes=(
            _MB,
            "paper (no numbers): EMR merges the experts, "
            '"thereby decreasing memory usage while also retaining performance" (Section 3.3)',
        ),
    ).layout(
        "ARM Figure 4c: experts kept apart and merged by EMR, in both protocols",
        _ANY_KIND,
        has_paper=False,
    ),
}

_PARTLY = "its group i is Begins and Ends right, ii the other forms"
_GROUPS = f"{_PARTLY}, iii an edit alone, iv a rephrase alone; ii the most common, i a large part"
_FAILURES: Mapping[str, Layout] = {
    **failures(
        "memoe_v2_table7",
        "MEMoE v2 Table 7: what is answered where an edit failed",
        _GROUPS,
        _ANY_KIND[1:],
    ),
    **failures(
        "lemoe_table7",
        "LEMoE Table 7: what is answered where an edit failed",
        _GROUPS,
        _ANY_KIND[1:],
    ),
    **failures(
        "arm_table12",
        "ARM Table 12: what is answered where an edit failed",
        f"{_PARTLY}, iii a rephrase alone, printed with its two outputs or marks exchanged",
        _ANY_KIND[1:],
    ),
}

LAYOUTS: Mapping[str, Layout] = {**_MEMOE_TABLES, **_LEMOE_TABLES, **_ARM_TABLES, **_FAILURES}
SPECIAL = Path(__file__).with_name("special")


@cache
def known_layouts() -> tuple[str, ...]:
    """Ids of the published tables and figures that have a layout."""
    files = {path.stem for path in SPECIAL.glob("*.py")} - {"__init__"}
    return tuple(sorted(files | set(LAYOUTS)))


def get_layout(name: str) -> Layout:
    """The layout of one published table, or `generic`; `name` is one of `known_layouts`."""
    if name == "generic":
        return generic.LAYOUT
    if name in LAYOUTS:
        return LAYOUTS[name]
    layout = importlib.import_module(f"analysis.layouts.special.{name}").LAYOUT
    assert isinstance(layout, Layout)
    return layout


def questions() -> list[str]:
    """A line for every published table and figure, and one for ablations, with what it tells."""
    names = {**{name: name for name in known_layouts()}, "generic": "<ablation>"}
    return [f"{shown:20} {get_layout(name).question}" for name, shown in names.items()]
