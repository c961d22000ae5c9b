"""Questions about chemical elements, which no edit of a country should touch."""

from __future__ import annotations

from functools import cache

_LAST = 92  # uranium: of the elements that are made by hand little is written
_SEVERAL_NAMES = frozenset({"aluminum", "cesium", "sulfur"})  # spelt otherwise across the ocean


@cache
def questions() -> tuple[tuple[str, str], ...]:
    """Prompt and answer, several for each element, in the order of the table."""
    from periodictable import elements

    found: list[tuple[str, str]] = []
    for element in elements:
        # 0 is the neutron.
        if not 1 <= element.number <= _LAST or element.name in _SEVERAL_NAMES:
            continue
        found += [
            (f"The chemical symbol for {element.name} is", element.symbol),
            (f"The chemical symbol of the element {element.name} is", element.symbol),
            (f"In the periodic table, {element.name} has the symbol", element.symbol),
        ]
    return tuple(found)
