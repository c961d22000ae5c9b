"""Several stores read as one: by tables, figures, claims and the page."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import html5lib
import pytest

from analysis import claims, figure, presets, report, table
from analysis.aggregate import PROVENANCE, Section
from analysis.arguments import SHARED, store_folders
from analysis.page.content import page_of
from analysis.reading import runs
from analysis.reading.store_names import names_of
from analysis.render.table import Table
from analysis.reports.apart import told_apart
from analysis.reports.table_report import Options, assemble
from tests.end_to_end.commands import copy_database
from tests.unit.analysis.test_page import Elements
from tests.unit.analysis_store import BATCH, Writer

SMOLLM2 = {"backbone": "smollm2", "backbone_fingerprint": "s", "dataset": "countries"}
RECORD = {"record_id": "0", "subject": "s", "score": "reliability", "token": 1, "exact": 1}


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Callable[..., Writer]:
    """Makes a store by its name, whose trials begin at a number of seconds."""

    def make(name: str, begin: int = 1) -> Writer:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy_database(empty_database, tmp_path / name)
        made = Writer(tmp_path / name)
        made._clock = 1_000 * begin
        return made

    return make


def the_cell(tables: tuple[Table, ...], arm: str, score: str = "reliability") -> Any:
    (one,) = tables
    (row,) = [row for row in one.rows if row.labels == (arm,)]
    return row.entries[list(one.scores).index(score)].ours


def own(writer: Writer, arm: str, seed: int, reliability: float, **tags: Any) -> None:
    """A trial of an ablation without a published table."""
    fingerprint = f"{arm} {seed} {tags.get('backbone', 'facts')} {tags.get('commit', '')}"
    tags = {"paper": "", "fingerprint": fingerprint, "arm_fingerprint": arm} | tags
    writer.trial("own", arm, seed, (reliability, 0.5, 1.0), **tags)


def test_seeds_of_two_machines_then_one_arm_with_an_interval_over_all(
    store: Callable[..., Writer],
) -> None:
    first, second = store("a/results"), store("b/results", 60)
    own(first, "one", 0, 0.8)
    own(first, "one", 1, 0.9)
    own(second, "one", 2, 1.0)
    (made,) = assemble("own", Options((first.store, second.store)))
    # mean .9, s = .1, t(.975, 2) = 4.3027: half = 4.3027 * .1 / sqrt(3) = .24841
    cell = the_cell((made,), "one")
    assert (cell.mean, cell.num_seeds, cell.source) == (pytest.approx(0.9), 3, "t")
    assert cell.high - cell.mean == pytest.approx(0.248414, abs=1e-6)
    assert made.context["store"] == "a/results, b/results"
    assert made.apart == ""
    assert made.rows == assemble("own", Options((second.store, first.store)))[0].rows


def test_a_trial_that_finished_in_one_store_and_failed_later_in_another_then_it_finished(
    store: Callable[..., Writer],
) -> None:
    older, newer = store("older"), store("newer", 60)
    own(older, "one", 0, 0.2)
    own(newer, "one", 0, 0.9, status="failed", error="out of memory")
    own(newer, "two", 0, 0.3, status="failed", error="out of memory")
    for stores in ((older.store, newer.store), (newer.store, older.store)):
        rows = runs.read_runs(stores, "own")
        found = zip(rows["arm"], rows["status"], rows["store"], strict=True)
        assert list(found) == [("two", "failed", "newer"), ("one", "finished", "older")]


def test_a_trial_in_two_stores_then_it_counts_once_and_the_newest_does(
    store: Callable[..., Writer],
) -> None:
    older, newer = store("older"), store("newer", 60)
    own(older, "one", 0, 0.2)
    own(older, "two", 0, 0.3)
    own(newer, "one", 0, 0.9)
    for stores in ((older.store, newer.store), (newer.store, older.store)):
        rows = runs.read_runs(stores, "own")
        assert sorted(zip(rows["arm"], rows["store"], strict=True)) == [
            ("one", "newer"),
            ("two", "older"),
        ]
        tables = assemble("own", Options(stores))
        assert the_cell(tables, "one").by_seed == (0.9,)
        assert the_cell(tables, "two").by_seed == (0.3,)
        (ablation,) = page_of(stores).ablations
        assert [ran.counts["finished"] for ran in ablation.ran] == [2]


def test_a_store_and_its_copy_then_all_is_as_of_one(
    store: Callable[..., Writer], tmp_path: Path
) -> None:
    first = store("first")
    for seed in range(3):
        own(first, "one", seed, seed / 4)
    shutil.copytree(first.store, tmp_path / "copy")
    (alone,) = assemble("own", Options((first.store,)))
    (both,) = assemble("own", Options((first.store, tmp_path / "copy")))
    assert both.rows == alone.rows
    assert both.footer == alone.footer
    assert "store" not in alone.context


def test_an_arm_that_was_changed_then_the_older_setting_is_left_out_as_within_one_store(
    store: Callable[..., Writer], tmp_path: Path
) -> None:
    whole, older, newer = store("whole"), store("older"), store("newer", 60)
    for writer in (whole, older):
        own(writer, "one", 0, 0.2, commit="old", arm_fingerprint="x")
        own(writer, "one", 1, 0.4, commit="old", arm_fingerprint="x")
    for writer in (whole, newer):
        own(writer, "one", 0, 0.9, commit="new", arm_fingerprint="y")
    (within,) = assemble("own", Options((whole.store,)))
    (over,) = assemble("own", Options((older.store, newer.store)))
    assert the_cell((over,), "one").by_seed == (0.9,)
    assert over.rows == within.rows
    assert over.footer == within.footer
    assert "left out: 2 trials with newer ones of the same arm" in over.footer


def test_two_backbones_then_tables_figures_and_page_say_which_is_which(
    store: Callable[..., Writer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up, real = store("a/results"), store("b/results", 60)
    own(made_up, "one", 0, 0.25, records=[RECORD])
    own(real, "one", 0, 0.75, records=[RECORD], **SMOLLM2)
    stores = f"store={made_up.store},{real.store}"
    tables = assemble("own", Options((made_up.store, real.store)))
    assert [each.apart for each in tables] == ["smollm2, countries", "facts"]
    assert [the_cell((each,), "one").mean for each in tables] == [0.75, 0.25]
    assert [each.context["store"] for each in tables] == ["b/results", "a/results"]

    assert table.main(["own", stores, "format=markdown"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert heads == ["## own (smollm2, countries)", "## own (facts)"]

    assert figure.main(["own", stores]) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    folder = made_up.store / "figures"
    assert drawn == [folder / "own-smollm2_countries.svg", folder / "own-facts.svg"]
    assert "own (smollm2, countries)" in drawn[0].read_text("utf-8")
    assert "own (facts)" in drawn[1].read_text("utf-8")

    out = tmp_path / "pages" / "all.html"
    words = [stores, f"out={out}", f"parts={tmp_path / 'parts'}"]
    assert report.main(words) == 0
    assert {path.name for path in (tmp_path / "parts" / "own").iterdir()} == {
        f"own-{name}.{form}" for name in ("facts", "smollm2_countries") for form in ("md", "svg")
    }
    html = out.read_text("utf-8")
    html5lib.HTMLParser(strict=True).parse(html)
    elements = Elements(html)
    for tag, name in (("img", "alt"), ("div", "aria-label")):
        told = [each[name] for each in elements.of(tag)]
        assert max(Counter(told).values()) == 1
    assert [link(out, each) for each in elements.of("a") if "jsonl" in each["href"]] == [
        made_up.store,
        real.store,
    ]
    assert "one, seed 0, facts" in elements.text
    assert "one, seed 0, smollm2, countries" in elements.text
    assert "a/results, b/results" in elements.text
    assert str(tmp_path) not in html


def link(page: Path, attributes: dict[str, str]) -> Path:
    """The store into which a link of a page leads."""
    assert not attributes["href"].startswith(("/", "file:"))
    target = page.parent / attributes["href"]
    assert target.is_file()
    return next(each for each in target.resolve().parents if (each / "mlflow.db").is_file())


def test_table_over_two_backbones_then_each_has_its_size_and_what_stood_before(
    store: Callable[..., Writer],
) -> None:
    first, second = store("first"), store("second", 60)
    tags: dict[str, Any] = {"paper": "memoe_v2_table4", "swept": {"arm": "batch"}}
    first.trial("models", "batch facts", 0, (0.9, 0.9, 0.9), method="memoe_v2", **tags)
    tags |= {"backbone": "smollm2", "backbone_fingerprint": "s", "fingerprint": "s"}
    tags |= {"num_layers": "30", "hidden_size": "576"}
    second.trial("models", "batch smollm2", 0, (0.5, 0.5, 0.5), method="memoe_v2", **tags)
    (made,) = assemble("memoe_v2_table4", Options((first.store, second.store)))
    sizes = "facts (16 layers, width 128), smollm2 (30 layers, width 576)"
    assert made.context["backbone"] == sizes
    before = [line.partition(":")[0] for line in made.footer if line.startswith("before editing")]
    assert before == ["before editing (facts)", "before editing (smollm2, facts)"]


def test_a_store_that_was_moved_then_its_records_are_found_in_it(
    store: Callable[..., Writer], tmp_path: Path
) -> None:
    made = store("made")
    own(made, "one", 0, 0.5, records=[RECORD])
    (made.store / "records").mkdir()
    (made.store / "records.jsonl").rename(made.store / "records" / "records.jsonl")
    moved = tmp_path / "moved"
    made.store.rename(moved)
    rows = runs.read_runs([moved], "own")
    records = runs.read_records(rows["records"].iloc[0], "facts")
    assert records is not None
    assert records["token"].tolist() == [1]
    ((records_of_one,),) = [each.records for each in page_of([moved]).ablations]
    assert (records_of_one.store, records_of_one.path) == (0, "records/records.jsonl")


def test_claims_when_an_ablation_stands_in_two_stores_then_it_is_judged_as_one_and_said(
    store: Callable[..., Writer], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = store("first"), store("second", 60)
    generality = {"knowledge_anchor": 0.9, "token": 0.8, "sentence": 0.7}
    for number, writer in enumerate((first, first, second)):
        for arm, value in generality.items():
            tags = {"paper": "memoe_v1_table5", "swept": {"arm": arm}, "method": "memoe_v1"}
            scores = (1.0, value + number / 100, 1.0)
            writer.trial("memoe_routing_input", arm, number, scores, **tags)
    assert claims.main(["memoe_v1.c2", f"store={first.store},{second.store}"]) == 0
    text = capsys.readouterr().out
    assert "### memoe_v1.c2: confirmed" in text
    assert "0.100 ± 0.000 (3)" in text
    said = "- memoe_routing_input on facts, facts stands in the stores first, second: of the same"
    assert said in text


def test_trials_that_mlflow_lacks_then_the_line_names_the_store_that_has_them(
    store: Callable[..., Writer],
) -> None:
    first, second = store("first"), store("second", 60)
    own(first, "one", 0, 0.5)
    (second.store / "ledger").mkdir()
    end = {
        "event": "end",
        "fingerprint": "f",
        "time": 1,
        "row_id": "r",
        "spec": {"ablation": "own"},
    }
    line = json.dumps(end, separators=(",", ":"))
    (second.store / "ledger" / "driver.jsonl").write_text(line + "\n", "utf-8")
    stores = (first.store, second.store)
    assert runs.lacking(stores) == (runs.Lacking(second.store, "own", 1),)
    (made,) = assemble("own", Options(stores))
    (told,) = [line for line in made.footer if line.startswith("MLflow lacks 1 trials of own")]
    assert f"store={second.store}" in told
    assert page_of(stores).lacking == (told,)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/a/results"], ("results",)),
        (["/x/a/results", "/x/b/results"], ("a/results", "b/results")),
        (["/x/a/results", "/x/b/results", "/x/b/other"], ("a/results", "b/results", "other")),
        (["/results", "/a/results"], ("/results", "a/results")),
    ],
)
def test_names_of_stores_are_as_short_as_tells_them_apart(
    paths: list[str], names: tuple[str, ...]
) -> None:
    assert names_of(list(map(Path, paths))) == names


def test_store_folders_when_a_store_is_named_badly_then_the_error_says_how(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    a = tmp_path / "a"
    for typed, told in (
        (f"{a},{a}/", "are the same folder"),
        (f"{a},{tmp_path / 'link'}", "are the same folder"),
        (f"{a},", "names no folder in one place"),
        (str(tmp_path / "a,b"), "a folder whose name holds a comma cannot be read"),
    ):
        with pytest.raises(ValueError, match=told) as raised:
            store_folders({**SHARED, "store": typed})
        assert typed in str(raised.value)
    assert store_folders({**SHARED, "store": "b,a"}) == (Path("b"), Path("a"))


@pytest.mark.parametrize("command", [table, figure, claims, presets, report])
def test_command_when_one_of_the_stores_is_not_there_then_one_line_names_it(
    command: Any, store: Callable[..., Writer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = store("made")
    own(made, "one", 0, 0.5)
    words = ["own"] if command in (table, figure) else []
    words += ["ablation=own"] if command is presets else []
    assert command.main([*words, f"store={made.store},{tmp_path / 'absent'}"]) == 2
    error = capsys.readouterr().err
    assert f"store={tmp_path / 'absent'} has no mlflow.db (no such folder)" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "absent").exists()


def test_live_page_of_several_stores_then_one_line_refuses_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report.main(["store=a,b", "live=yes"]) == 2
    error = capsys.readouterr().err
    assert error == "report.py: store=a,b: live=yes is for one store, that of the sweep\n"


def section(backbone: str, dataset: str, digest: str = "d", **protocol: Any) -> Section:
    context = {"backbone": backbone, "backbone_fingerprint": "b", "dataset": dataset}
    context |= {"dataset_digest": digest, "dataset_part": "report", "target_field": "new"}
    return Section(context, BATCH | protocol, (), {name: () for name in PROVENANCE}, 0)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ([section("facts", "facts")], [""]),
        ([section("facts", "facts"), section("s", "countries")], ["facts", "s, countries"]),
        ([section("s", "zsre"), section("s", "countries")], ["zsre", "countries"]),
        (  # one key is enough, though another differs with it
            [section("s", "d", num_edits=5), section("s", "d", num_edits=6, edit_batch_size=6)],
            ["num_edits 5", "num_edits 6"],
        ),
        ([section("s", "d", depth=1), section("s", "d")], ["depth 1", ""]),
        (
            [section("s", "d", "0123456789"), section("s", "d", "9876543210")],
            ["data digest 01234567", "data digest 98765432"],
        ),
    ],
)
def test_sections_are_told_apart_by_what_differs(sections: list[Section], told: list[str]) -> None:
    assert list(told_apart(sections)) == told
