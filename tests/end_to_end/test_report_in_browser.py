"""The report's page in a real browser, on a wide screen, on a narrow one and on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from analysis import report
from tests.npm_files import NotReachedError, fetch_npm
from tests.unit.analysis_store import shared_store
from trainables.backbones.conversion.wheels import sha256_of

WIDTHS = (1600, 400)  # pixels
VNU = ("vnu-jar@26.9.27", "package/build/dist/vnu.jar")
VNU_SHA256 = "22f15dd39a33bed929d2a5c0cddf5946849a647eca9272bf4d5d00bc7e7a4d47"
AXE = ("axe-core@4.14.1", "package/axe.min.js")
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

# Shows the page in a frame of each width, and puts in its own place what the frames tell.
LOOK = """<!DOCTYPE html><title>looks at a page</title>
%s
<script>
const told = async (frame) => {
  const page = frame.document;
  const images = [...page.images];
  return {
    width: frame.innerWidth,
    needed: page.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter((image) => !image.complete || image.naturalWidth === 0).length,
    fetched: frame.performance.getEntriesByType("resource").map((each) => each.name),
    text: page.body.innerText.length,
    violations: await violations(frame),
  };
};
const violations = (frame) => new Promise((done) => {
  const script = frame.document.createElement("script");
  script.src = "axe.min.js";
  script.onerror = () => done(null);
  script.onload = async () => done((await frame.axe.run()).violations.map(
    (each) => each.id + ": " + each.nodes.map((node) => node.html.slice(0, 200)).join(" ")));
  frame.document.head.append(script);
});
addEventListener("load", async () => {
  const all = [];
  for (let i = 0; i < frames.length; i++) all.push(await told(frames[i]));
  document.body.textContent = JSON.stringify(all);
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the store that all tests share, alone in a folder."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    store = shared_store(tmp_path_factory)
    assert report.main([f"store={store}", f"out={path}"]) == 0
    return path


def browse(page: Path, *options: str) -> str:
    """What Chromium prints of a page, for which no address but its own folder is there."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian's package chromium)")
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    own = f"--user-data-dir={page.parent / 'browser'}"
    return subprocess.run(
        [browser, *fixed, own, "--host-resolver-rules=MAP * ~NOTFOUND", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout


def looked_at(page: Path) -> list[dict[str, Any]]:
    """What stands in the page by width; `violations` is None unless axe lies beside it."""
    frames = "".join(
        f'<iframe src="{page.name}" style="width:{width}px;height:1000px;border:0"></iframe>'
        for width in WIDTHS
    )
    looking = page.with_name("look.html")
    looking.write_text(LOOK % frames, "utf-8")
    document = browse(looking, "--dump-dom", "--virtual-time-budget=120000")
    (body,) = re.findall("<body>(.*)</body>", document, re.DOTALL)
    return list(json.loads(unescape(body)))


def test_page_in_chromium_then_it_fits_the_window_and_fetches_nothing(page: Path) -> None:
    looks = looked_at(page)
    assert [each["width"] for each in looks] == list(WIDTHS)
    for each in looks:
        assert each["needed"] <= each["width"]  # wide tables scroll by themselves
        assert each["images"] > 3
        assert each["broken"] == 0
        assert each["text"] > 2000
        assert [name for name in each["fetched"] if not name.endswith("axe.min.js")] == []


def test_page_in_chromium_then_it_prints(page: Path) -> None:
    printed = page.with_suffix(".pdf")
    browse(page, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    sheets = re.findall(rb"/Type /Page\b(?!s)", printed.read_bytes())
    assert len(sheets) > 3


@pytest.mark.slow
@pytest.mark.network
def test_page_then_the_nu_validator_finds_no_error(page: Path, tmp_path: Path) -> None:
    java = shutil.which("java")
    if java is None:
        pytest.skip("no Java on this machine, in which the Nu HTML checker runs")
    validator = fetched(*VNU, VNU_SHA256, tmp_path)
    command = [java, "-Xss8m", "-jar", str(validator), "--format", "json", "--stdout", str(page)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert json.loads(said.stdout)["messages"] == []


@pytest.mark.slow
@pytest.mark.network
def test_page_then_axe_finds_no_violation(page: Path) -> None:
    axe = fetched(*AXE, AXE_SHA256, page.parent)
    try:
        looks = looked_at(page)
    finally:
        axe.unlink()
    assert [each["violations"] for each in looks] == [[], []]


def fetched(package: str, member: str, sha256: str, folder: Path) -> Path:
    try:
        (path,) = fetch_npm(package, [member], folder)
    except NotReachedError as reason:
        pytest.skip(str(reason))
    assert sha256_of(path) == sha256
    return path
