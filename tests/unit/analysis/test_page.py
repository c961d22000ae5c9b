"""The page of a store: valid HTML that needs nothing else, and holds what the tables do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.dom.minidom import Element

import html5lib
import pytest
import yaml

from analysis import report
from analysis.page.content import page_of
from analysis.page.writing import html_of
from analysis.published.claim_list import load_claims
from analysis.reading import runs
from analysis.render.table import entry_text, worded
from analysis.reports.table_report import Options, assemble
from tests.unit.analysis_store import Writer, shared_store
from tests.unit.published_store import published_store

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "<script>alert('x')</script> & <img src=//elsewhere>"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.found if tag in tags]


@cache
def html_at(store: Path) -> str:
    return html_of(page_of([store]))


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_store(tmp_path_factory)


def test_page_then_a_strict_parser_takes_it(store: Path) -> None:
    html5lib.HTMLParser(strict=True).parse(html_at(store))


def test_page_then_nothing_is_fetched_or_run(store: Path) -> None:
    elements = Elements(html_at(store))
    assert not elements.of("script", "link", "iframe", "object", "embed")
    sources = [each["src"] for each in elements.of("img")]
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "url(" not in html_at(store)
    assert "@import" not in html_at(store)
    assert not [each for each in elements.of("a") if each["href"].startswith(("http", "//"))]


def test_page_then_it_can_be_read_aloud(store: Path) -> None:
    elements = Elements(html_at(store))
    assert elements.of("html")[0]["lang"] == "en"
    assert all(len(each["alt"]) > 20 for each in elements.of("img"))
    assert all("scope" in each for each in elements.of("th") if "style" not in each)
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [each["id"] for _, each in elements.found if "id" in each]
    assert len(set(ids)) == len(ids)
    links = [each["href"][1:] for each in elements.of("a") if each["href"].startswith("#")]
    assert links
    assert set(links) <= set(ids)


def test_page_then_each_part_of_it_has_a_name_of_its_own(store: Path) -> None:
    root = html5lib.parse(html_at(store), treebuilder="dom")
    texts = {each.getAttribute("id"): _text(each) for each in root.getElementsByTagName("h2")}
    names = [
        each.getAttribute("aria-label") or texts[each.getAttribute("aria-labelledby")]
        for kind in ("section", "nav", "div")
        for each in root.getElementsByTagName(kind)
        if kind != "div" or each.getAttribute("role") == "region"
    ]
    assert len(names) > 8
    assert [name for name, count in Counter(names).items() if count > 1] == []


def _text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType == child.TEXT_NODE)


def test_page_then_its_summary_counts_the_verdicts_that_stand_below(store: Path) -> None:
    page = page_of([store])
    headings = re.findall("## Published claims on backbone (.*), dataset (.*): (.*)", page.claims)
    text = re.sub(r" \([^)]*\)", "", re.sub(r"\s+", " ", Elements(html_at(store)).text))
    assert headings
    for backbone, dataset, tally in headings:
        on = backbone if backbone == dataset else f"{backbone}, {dataset}"
        assert f"on {on}: {tally}" in text
    judged = [claim for by in page.verdicts.values() for those in by.values() for claim in those]
    assert sorted(set(judged)) == sorted(claim.claim_id for claim in load_claims())


def test_page_then_deviations_are_those_of_methods_that_ran_for_their_papers(store: Path) -> None:
    ran = {
        (runs.paper_of(table), method)
        for name in runs.experiments([store])
        for tag, method in runs.read_runs([store], name)[["paper", "method"]].to_numpy()
        for table in runs.papers_of(tag)
    }
    listed = yaml.safe_load((ROOT / "search_spaces" / "deviations.yaml").read_text())["deviations"]
    expected = []
    for each in listed:
        methods = {method for paper, method in ran if paper == each["paper"]}
        concerned = each.get("concerns", [])
        if methods & (methods if concerned == "all" else {*concerned}):
            expected.append((each["paper"], each["method"], each["why"]))
    page = page_of([store])
    assert [(each.paper, each.method, each.why) for each in page.deviations] == expected
    assert 0 < len(expected) < len(listed)
    text = re.sub(r"\s+", " ", Elements(html_at(store)).text)
    assert all(why in text for _, _, why in expected)


def test_page_then_every_colour_of_text_stands_out_from_white(store: Path) -> None:
    """WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1."""
    (style,) = re.findall("<style>(.*?)</style>", html_at(store), re.DOTALL)
    colours = re.findall(r"[^-]color: (#[0-9a-f]{3,6})", style)
    assert len(colours) >= 4

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * each for each in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert min(1.05 / (luminance(colour) + 0.05) for colour in colours) >= 4.5


def test_page_then_each_table_stands_in_it_cell_by_cell(store: Path) -> None:
    text = re.sub(r"\s+", " ", Elements(html_at(store)).text)
    tables = assemble("lemoe_lora", Options((store,)))
    cells = [entry_text(entry) for table in tables for row in table.rows for entry in row.entries]
    assert len(cells) > 20
    flat = text.replace("paper: ", "/").replace(" ", "")
    assert [cell for cell in cells if cell.replace(" ", "") not in flat] == []
    for table in tables:
        lines = (*worded(table), *table.footer)
        assert all(re.sub(r"\s+", " ", line) in text for line in lines)


def test_page_then_a_shipped_ablation_has_its_question(store: Path) -> None:
    text = Elements(html_at(store)).text
    assert "Does a low-rank expert cost reliability, from which rank on" in text


def test_page_then_counts_and_troubles_are_those_of_the_store(store: Path) -> None:
    page = page_of([store])
    (grid,) = [each for each in page.ablations if each.name == "lemoe_lora"]
    failed = [each for each in page.troubles if each.ablation == "lemoe_lora" and each.reason]
    (ran,) = grid.ran
    assert ran.counts["failed"] == sum(each.status == "failed" for each in failed)
    assert "out of memory" in Elements(html_at(store)).text
    assert {end for end, count in ran.counts.items() if count} >= {"finished", "failed"}


def test_page_then_a_published_table_stands_once_with_all_runs_that_answer_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = published_store(tmp_path_factory)
    page = page_of([folder])
    shown = [each.table for ablation in page.ablations for each in ablation.shown]
    found = Counter((table.name, table.title, str(table.context)) for table in shown)
    assert set(found.values()) == {1}
    tables = assemble("memoe_v2_table1", Options((folder,)))
    assert [table.rows for table in shown if table.name == "memoe_v2_table1"] == [
        table.rows for table in tables
    ]
    assert "stands with" in html_of(page)


def test_page_then_records_are_named_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    write = Writer(tmp_path / "store")
    write.trial("own", "one", 0, (0.5, 0.5, 0.5), records=[{"record": 0, "score": "reliability"}])
    out = tmp_path / "pages" / "page.html"
    assert report.main([f"store={write.store}", f"out={out}"]) == 0
    elements = Elements(out.read_text("utf-8"))
    (link,) = [each["href"] for each in elements.of("a") if each["href"].endswith(".jsonl")]
    assert not link.startswith("file:")
    assert (out.parent / link).is_file()
    assert str(tmp_path) not in out.read_text("utf-8")


def test_page_when_a_run_says_something_hostile_then_it_is_text(tmp_path: Path) -> None:
    write = Writer(tmp_path)
    write.trial("own", HOSTILE, 0, (0.5, 0.5, 0.5))
    write.trial("own", "other", 0, status="failed", error=HOSTILE)
    html = html_of(page_of([tmp_path]))
    html5lib.HTMLParser(strict=True).parse(html)
    elements = Elements(html)
    assert not elements.of("script")
    assert all(each["src"].startswith("data:") for each in elements.of("img"))
    assert elements.text.count(HOSTILE) >= 2


def test_page_when_nothing_can_be_drawn_then_the_table_stands_alone(tmp_path: Path) -> None:
    write = Writer(tmp_path)
    write.trial("own", "one", 0, status="failed", error="no memory")
    html = html_of(page_of([tmp_path]))
    assert not Elements(html).of("img")
    assert "failed 1/1" in html
    assert "Every trial in the store finished." not in html


@pytest.mark.parametrize(
    ("words", "told"),
    [(["lemoe_table9"], "'lemoe_table9' is no option"), (["uot=x"], "did you mean 'out'")],
)
def test_command_when_typed_wrong_then_one_line_names_it(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_command_when_there_is_no_store_then_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([f"store={tmp_path / 'absent'}"]) == 2
    assert "absent" in capsys.readouterr().err


def test_command_then_the_page_is_in_the_store(store: Path) -> None:
    command = [sys.executable, str(Path(report.__file__)), f"store={store}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(store / "report.html")
    assert (store / "report.html").read_text("utf-8") == html_at(store)
