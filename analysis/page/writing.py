"""Makes HTML of a page: one file, pictures inside, nothing fetched from elsewhere, no script."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from analysis.page.content import MOST_ROWS, Page
from analysis.render import PRINTED_DIGITS, entry_parts

_TEMPLATE = "page.html.jinja"
_DEEPER = 1  # levels that headings of Markdown go down, under a heading of the page


def html_of(page: Page) -> str:
    """The page as one HTML document; whatever a run says stands in it as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"markdown": _markdown, "data_uri": _data_uri}
    template = environment.get_template(_TEMPLATE)
    return template.render(
        page=page, parts=entry_parts, digits=PRINTED_DIGITS, most=MOST_ROWS, zip=zip
    )


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
