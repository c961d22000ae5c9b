"""LEMoE Figure 3: reliability over shuffles of the same edits, and the similarity in batches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.aggregate import Arm, Section
from analysis.layouts.directions import EDITS, by_count
from analysis.layouts.labels import with_words
from analysis.layouts.layout import Body, Layout, correlations
from analysis.layouts.matrix import Matrix
from analysis.metrics import headings
from analysis.published.compare import spearman
from analysis.published.paper_numbers import PaperRow
from analysis.published.variation import ORDER, spread

WITHIN, BETWEEN = "within_batch_similarity", "between_batch_similarity"
_MATRIX = Matrix(
    by_count(ORDER, "order", lambda _: None, head="Shuffle"),
    by_count(EDITS, "T", lambda _: None),
    scores=headings(["reliability", WITHIN, BETWEEN]),
    notes=(
        "WBS, BBS: mean cosine similarity within and between batches (Eq. 7 and 8)",
        "paper (no numbers): over 100 shuffles Rel. moves by more than 20 points with 1,000 edits, "
        "from 30 to 90 with 100; it rises with WBS and falls with BBS",
    ),
)


def arrange(section: Section, paper: Sequence[PaperRow], is_filtered: bool) -> Body:
    """A row per shuffle, a group of columns per number of edits; spread and correlation below."""
    body = _MATRIX.arrange(section, (), is_filtered)
    shuffled: Mapping[tuple[int, str, str], list[Arm]] = defaultdict(list)
    for arm in section.arms:
        if {"reliability", WITHIN, BETWEEN} <= set(arm.scores):
            size = arm.published.get(EDITS, [arm.protocol["num_edits"]])[0]
            shuffled[size, arm.method, _edits(arm)].append(arm)
    is_one = len({method for _, method, _ in shuffled}) == 1
    streams = Counter((size, method) for size, method, _ in shuffled)
    lines = []
    for (size, method, edits), arms in sorted(shuffled.items()):
        what = f"T={size}" if is_one else f"{method}, T={size}"
        lines += _lines(with_words(what, edits if streams[size, method] > 1 else ""), arms)
    return replace(body, footer=(*body.footer, *lines))


def _edits(arm: Arm) -> str:
    """The edits that shuffles of one stream share."""
    size = arm.protocol.get("edit_batch_size")
    return f"{arm.protocol['num_edits']} edits in batches of {size}"


def _lines(what: str, arms: Sequence[Arm]) -> list[str]:
    values = {
        name: [arm.scores[name].mean for arm in arms] for name in ("reliability", WITHIN, BETWEEN)
    }
    scores = values["reliability"]
    low, high = min(scores), max(scores)
    found = {
        head: spearman(zip(values[name], scores, strict=True))
        for head, name in (("with WBS", WITHIN), ("with BBS", BETWEEN))
    }
    return [
        f"{what}: Rel. {low:.2f} to {high:.2f} over {len(arms)} shuffles, spread "
        f"{spread(scores).mean:.2f}",
        f"{what}: Spearman of Rel. over the shuffles {correlations(found)}",
    ]


LAYOUT = Layout(
    question="LEMoE Figure 3: reliability over shuffles of the same edits",
    arrange=arrange,
    has_paper=False,
    varying=("num_edits", "edit_batch_size", "order_seed"),
)
