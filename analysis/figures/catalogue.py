"""Which drawing shows a table best: by its id, or by what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from matplotlib.figure import Figure

from analysis.errors import AnalysisError
from analysis.figures import ability, curve, dots, heat_map, scatter
from analysis.figures.cells import grid_heads, scores_of
from analysis.layouts.grid import GRID_HEADS
from analysis.render.table import Table

Draw: TypeAlias = Callable[[Table], Figure]

# As published: what each figure is drawn as; a table that is not named is drawn by its form.
_PUBLISHED: Mapping[str, Draw] = {
    "memoe_v1_figure1": partial(
        scatter.one_against_another,
        pairs=[("reliability", "balance"), ("reliability", "average")],
    ),
    "memoe_v1_figure3": ability.draw,
    "memoe_v1_figure4": lambda table: curve.over_rows(scores_of(table)),
    "memoe_v2_figure1": curve.over_rows,
    "memoe_v2_figure3": ability.draw,
    "memoe_v2_figure4": lambda table: curve.over_rows(scores_of(table)),
    "memoe_v2_figure5": dots.draw,
    "lemoe_figure2": curve.over_rows,
    "lemoe_figure2_right": heat_map.of_shares,
    "lemoe_figure3": partial(
        scatter.one_against_another,
        pairs=[
            ("within_batch_similarity", "reliability"),
            ("between_batch_similarity", "reliability"),
        ],
        is_named=False,
        spread_of="reliability",
    ),
    "lemoe_figure5": curve.over_rows,
    "arm_figure4a": curve.over_rows,
    "arm_figure4b": curve.over_groups,
    "arm_figure4c": dots.draw,
    "arm_figure5": partial(scatter.one_against_another, pairs=[("own_expert_rate", "average")]),
    "everyone": dots.by_first_label,
}


def drawing(name: str, kind: str, score: str = "average") -> Draw:
    """How to draw the tables of `name`.

    Args:
        name: Id of a published table or figure, or an ablation's name.
        kind: One of `figures.KINDS`; `auto`: as published, or what suits the table.
        score: Key of the score that a heat map shows.
    """
    by_kind: Mapping[str, Draw] = {
        "dots": dots.draw,
        "curve": curve.over_rows,
        "heat_map": partial(heat_map.of_grid, score=score),
        "agreement": scatter.ours_against_theirs,
    }
    return by_kind.get(kind) or partial(_suited, _PUBLISHED.get(name, _by_form))


def _suited(draw: Draw, table: Table) -> Figure:
    """As `draw` has it, or else dots, which show any table that holds a number."""
    try:
        return draw(table)
    except AnalysisError:
        return dots.draw(table)


def _by_form(table: Table) -> Figure:
    """A heat map of a grid of two numbers or more, a curve over one, dots of all else."""
    heads = {table.labels[place] for place in grid_heads(table)}
    if heads and heads <= GRID_HEADS:
        return heat_map.of_grid(table) if len(heads) > 1 else curve.over_rows(table)
    return dots.draw(table)
