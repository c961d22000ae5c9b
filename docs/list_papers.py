"""Writes docs/PAPERS.md: the commands behind every numbered table and figure of the four papers.

    python docs/list_papers.py [FILE]

How many of a table's printed values get one of ours beside them is counted in the plan of its
ablations at scale=paper, on the model and data set that each value is printed for. A test keeps the
page current.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from analysis.aggregate import Arm  # noqa: E402
from analysis.layouts.catalogue import get_layout, known_layouts  # noqa: E402
from analysis.layouts.layout import Body  # noqa: E402
from analysis.published.compare import comparable  # noqa: E402
from analysis.published.paper_numbers import caveats, load, read  # noqa: E402
from orchestrator.planning.plan import expand  # noqa: E402
from orchestrator.settings.loading import load as load_words  # noqa: E402
from orchestrator.settings.yaml_files import SearchSpaces  # noqa: E402
from tests.planned_arms import arm_of, section  # noqa: E402

PAPERS = {"memoe_v1": "MEMoE v1", "memoe_v2": "MEMoE v2", "lemoe": "LEMoE", "arm": "ARM / MoKE"}
MODELS = {
    "LLaMA2-7B": "llama2_7b",
    "GPT2-XL": "gpt2_xl",
    "Mistral-7B": "mistral_7b",
    "BLOOMZ-1.1B": "bloomz_1b1",
    "BLOOMZ-1.7B": "bloomz_1b7",
    "BLOOMZ-3B": "bloomz_3b",
    "LLaMA2-13B": "llama2_13b",
    "LLaMA2-70B": "llama2_70b",
}
DATASETS = {
    "ZsRE": "zsre",
    "sLKE-ZsRE": "zsre",
    "CounterFact": "counterfact",
    "WikiCF": "wiki_counterfact",
    "sLKE-WikiCF": "wiki_counterfact",
    "SelfCheckGPT": "hallucination",
}
HEAD = """\
# Every table and figure of the four papers

Written by `python docs/list_papers.py`; a test keeps it current. Sweep, then print:

    python orchestrator/sweep.py ablation=memoe_batch scale=paper backbone=llama2_7b \\
        dataset=zsre dataset.path=FILE
    python analysis/table.py memoe_v1_table1
    python analysis/figure.py memoe_v1_table1

Without `scale=paper` and what follows it the same commands run at quick scale on the made-up world.
`printed` counts the values that the table shows of the paper; of most figures a paper's text has
none. `planned` counts those that a run at `scale=paper` puts one of ours beside, on the model and
data that each is printed for. What departs from the paper's settings is in
`search_spaces/deviations.yaml`, with the reason; `--dry-run` prints it.
"""
# What has to be typed beside backbone and data, by table and data set.
FURTHER = {("lemoe_table1", "SelfCheckGPT"): ("axes.protocol.num_edits=[100,600]",)}
OF_MODELS = "memoe_v2_table4"  # the models are its axis
# Tables whose numbers are no scores: a plan cannot tell which will stand beside.
OTHER_NUMBERS = {
    "memoe_v2_table5": "memoe_v2_table5",
    "memoe_v2_table7": "memoe_v2_table7",
    "lemoe_figure2_right": "lemoe_figure2",
    "lemoe_table6": "lemoe_table6",
    "lemoe_table7": "lemoe_table7",
    "arm_table6": "arm_table6",
    "arm_table12": "arm_table12",
}
NOTHING_TO_RUN = {
    "memoe_v1": {"Figure 2": "a drawing of the method", "Figure 5": "examples of records"},
    "memoe_v2": {"Figure 2": "a drawing of the method", "Table 3": "examples of records"},
    "lemoe": {
        "Figures 1, 4": "drawings of the method",
        "Table 5": "examples of records",
    },
    "arm": {
        "Figures 1, 2, 3, 6": "drawings of the method, and a prompt",
        "Tables 7, 10": "examples of records and of augmented prompts",
        "Table 8": "settings, against which a test holds the plans of `scale=paper`",
    },
}


@cache
def ablations() -> Mapping[str, tuple[str, ...]]:
    """Table or figure -> the ablations that fill it."""
    spaces = SearchSpaces()
    found: dict[str, tuple[str, ...]] = {}
    for name in spaces.names("ablation"):
        for paper in load_words([f"ablation={name}"]).paper:
            found[paper] = (*found.get(paper, ()), name)
    return found


@cache
def planned(ablation: str, words: tuple[str, ...]) -> tuple[Arm, ...]:
    """An ablation's arms at scale=paper, with these words typed beside it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as data:  # whose records no plan looks at
        path = f"dataset.path={data.name}"
        typed = [f"ablation={ablation}", "scale=paper", *words, path, "dataset.max_edits=null"]
        plan = expand(load_words(typed))
    trials = {trial.arm: trial for trial in plan.trials or plan.middles}
    return tuple(map(arm_of, trials.values()))


def bodies(name: str) -> Iterator[tuple[str, Body]]:
    """For each model and data set that a table has numbers of, what it shows when all has run."""
    layout = get_layout(name)
    printed = tuple(row for each in layout.numbers_of(name) for row in load(each))
    for model, dataset in dict.fromkeys((row.model, row.dataset) for row in printed):
        words = [f"dataset={DATASETS[dataset]}", *FURTHER.get((name, dataset), ())]
        if name != OF_MODELS:
            words.append(f"backbone={MODELS[model]}")
        arms = [arm for each in ablations()[name] for arm in planned(each, tuple(words))]
        found, _ = comparable([section(arms)], printed, name)
        yield f"{model}, {dataset}", layout.arrange(found[0], printed, False)
        if name == OF_MODELS:
            return


def counts(name: str) -> tuple[int, int]:
    """Printed values that a table shows, and how many of them have one of ours beside them."""
    entries = [
        entry
        for _, body in bodies(name)
        for row in body.rows
        for entry in row.entries
        if isinstance(entry.paper, float)
    ]
    return len(entries), sum(not isinstance(entry.ours, str) for entry in entries)


def counted(name: str) -> str:
    """The two last cells of a table's line."""
    if name in OTHER_NUMBERS:
        return f"{len(read(OTHER_NUMBERS[name], ()))} lines | below or beside ours"
    if not get_layout(name).has_paper:
        return "none | "
    return "{} | {}".format(*counts(name))


def number_of(name: str) -> str:
    """`Table 9`, `Figure 2, right` for the name of a layout."""
    kind, number, side = re.fullmatch(r".*_(table|figure)(\d+[a-z]?)_?(\w*)", name).groups()  # type: ignore[union-attr]
    return f"{kind.title()} {number}{', ' if side else ''}{side}"


def page() -> str:
    """The whole page, as Markdown."""
    parts = [line for paper, title in PAPERS.items() for line in part(paper, title)]
    typed = [f"`{name}` on {data}: `{' '.join(words)}`" for (name, data), words in FURTHER.items()]
    last = ["", f"To be typed beside backbone and data: {'; '.join(typed)}."]
    return "\n".join([*HEAD.splitlines(), *parts, *last, ""])


def part(paper: str, title: str) -> Iterator[str]:
    """The lines on one paper: its tables, its figures, and where it contradicts itself."""
    yield from ("", f"## {title}", "")
    yield "| | what it shows | ablation | name | printed | planned |"
    yield "|---|---|---|---|---|---|"
    names = sorted((name for name in known_layouts() if name.startswith(f"{paper}_")), key=_order)
    for name in names:
        what = get_layout(name).question.partition(": ")[2]
        runs = ", ".join(f"`{each}`" for each in ablations()[name])
        yield f"| {number_of(name)} | {what} | {runs} | `{name}` | {counted(name)} |"
    for each, why in NOTHING_TO_RUN[paper].items():
        yield f"| {each} | {why} | | | | |"
    yield from ("", "What contradicts itself there, as the tables say below their numbers:", "")
    yield from (f"- {number_of(name)}: {each}" for name in names for each in caveats(name))


def _order(name: str) -> tuple[bool, int, str]:
    number = number_of(name)
    return "Figure" in number, int(re.findall(r"\d+", number)[0]), number


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "PAPERS.md"
    target.write_text(page(), "utf-8")
