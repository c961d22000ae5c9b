"""Makes HTML of a page or of tables: pictures inside, nothing fetched from elsewhere, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from analysis.page.content import MOST_ROWS, Page
from analysis.page.live import Live
from analysis.render.table import PRINTED_DIGITS, Table, entry_parts, worded

_FOLDER = Path(__file__).parent
_DEEPER = 1  # levels that headings of Markdown go down, under a heading of the page


def html_of(page: Page, bases: Sequence[str] = ("",), live: Live | None = None) -> str:
    """The page as one HTML document; whatever a run says stands in it as text.

    Args:
        page: What it shows.
        bases: Path of each store as links have it from where the page lies, such as `../`.
        live: How a sweep stands that runs now; the page then loads itself again.
    """
    written = datetime.now(UTC).strftime("%H:%M:%S UTC on %d %B %Y")
    return _filled("page", page=page, most=MOST_ROWS, bases=bases, live=live, written=written)


def tables_as_html(tables: Sequence[Table]) -> str:
    """Tables alone as one HTML document."""
    return _filled("tables", tables=tables)


def _filled(name: str, **values: object) -> str:
    """The template of that name, with what it shows."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"markdown": _markdown, "data_uri": _data_uri}
    environment.globals |= {
        "parts": entry_parts,
        "digits": PRINTED_DIGITS,
        "zip": zip,
        "notes": worded,
    }
    style = (_FOLDER / "style.css").read_text("utf-8")
    template = environment.get_template(f"{name}.html.jinja")
    return template.render(style=style, **values).strip() + "\n"


def _markdown(text: str) -> str:
    """Markdown as HTML, tags in it as text, its headings one level deeper."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + _DEEPER}"
    return str(parser.renderer.render(tokens, parser.options, {}))


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
