"""The page of a store while a sweep runs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import pytest

from analysis.errors import StoreError
from analysis.page.content import EMPTY, Page, page_of
from analysis.page.live import Live, LiveArm, LiveFailure, LiveTrial, follow
from analysis.page.writing import html_of
from tests.unit.analysis.test_page import HOSTILE, Elements
from tests.unit.analysis_store import shared_store

TOLD = {"ablation": "lemoe_lora", "every_seconds": 30, "total": 9, "counts": {"finished": 2}}
TOLD |= {"elapsed": "0:40"}


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_store(tmp_path_factory)


def followed(
    lines: list[str], store: Path, path: Path, *, waits: bool = True
) -> list[tuple[str, str]]:
    """The stores of the pages that were made, and whether each was live or the last one."""
    seen: list[tuple[str, str]] = []

    def told() -> Iterator[str]:
        yield from lines
        deadline = time.monotonic() + 60
        while waits and not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)  # at the end of all lines those before it count no more

    def text_of(page: Page, live: Live | None) -> str:
        seen.append((page.title, "live" if live else "last"))
        return html_of(page, live=live)

    follow(told(), store, path, page_of=lambda: page_of([store]), html_of=text_of)
    return seen


def test_live_page_is_valid_and_loads_itself_again_and_shows_all_that_was_told(
    store: Path,
) -> None:
    live = Live(
        **TOLD,  # type: ignore[arg-type]
        left="2:20",
        score="average",
        arms=[LiveArm(f"good {HOSTILE}", 0.9, 0.05, 3), LiveArm("poor", 0.25, None, 1)],
        num_arms=5,
        running=[LiveTrial("arm · seed 0", "step 3/50, loss 1.5", "0:12")],
        failures=[LiveFailure(f"out of memory {HOSTILE}", 2)],
    )
    html = html_of(page_of([store]), live=live)
    html5lib.HTMLParser(strict=True).parse(html)
    elements = Elements(html)
    [refresh] = [each for each in elements.of("meta") if "http-equiv" in each]
    assert refresh == {"http-equiv": "refresh", "content": "30"}
    assert not elements.of("script")
    assert [(each["max"], each["value"]) for each in elements.of("progress")] == [("9", "2")]
    text = " ".join(elements.text.split())
    assert "2 of 9 trials have ended (2 finished); running for 0:40, 2:20 left." in text
    assert f"good {HOSTILE}0.90 ± 0.053 poor0.251" in text  # the cells of two rows
    assert "3 further arms have a score" in text
    assert "arm · seed 0step 3/50, loss 1.50:12" in text
    assert f"out of memory {HOSTILE}" in text


def test_live_page_before_anything_has_ended_is_valid_and_says_so() -> None:
    html = html_of(EMPTY, live=Live(**TOLD, doing="starting Ray, 0:03"))  # type: ignore[arg-type]
    html5lib.HTMLParser(strict=True).parse(html)
    assert "The driver: starting Ray, 0:03." in html
    assert "Every trial in the store finished" not in html


def test_followed_then_the_last_page_is_that_of_the_command_and_nothing_else_lies_there(
    store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    assert followed([json.dumps(TOLD)], store, path) == [
        (store.name, "live"),
        (store.name, "last"),
    ]
    assert path.read_text("utf-8") == html_of(page_of([store]))
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_followed_then_a_torn_line_is_left_out(store: Path, tmp_path: Path) -> None:
    torn: list[Any] = [json.dumps(TOLD)[:-9]]
    assert followed(torn, store, tmp_path / "report.html", waits=False) == [(store.name, "last")]


def test_followed_when_nothing_ended_then_the_page_stays_and_loads_itself_no_more(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(StoreError):
        followed([json.dumps(TOLD)], tmp_path, path)
    text = path.read_text("utf-8")
    assert "No trial in the store has ended" in text
    assert not re.search("http-equiv", text)
