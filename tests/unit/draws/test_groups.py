"""Groups of similar records."""

from __future__ import annotations

import pytest

from trainables.draws.groups import similarity_groups
from trainables.interfaces import EditRecord


def records(*prompts: str) -> list[EditRecord]:
    return [EditRecord(f"r{n}", prompt, "t") for n, prompt in enumerate(prompts)]


BORN = [f"Where was {name} born?" for name in ("Ada", "Ivo", "Una", "Odo")]
RIVER = [f"Which river feeds lake {name}" for name in ("Vane", "Orm", "Isk")]
BOOK = [f"The author of {name} is" for name in ("Tides", "Mist")]


def test_groups_follow_the_words_that_prompts_share_and_the_largest_is_first() -> None:
    mixed = [*BOOK, *BORN, *RIVER]
    assert similarity_groups(records(*mixed), 3) == (2, 2, 0, 0, 0, 0, 1, 1, 1)


def test_groups_do_not_depend_on_the_order_of_the_records() -> None:
    mixed = [*BOOK, *BORN, *RIVER]
    turned = similarity_groups(records(*mixed[::-1]), 3)
    assert turned[::-1] == similarity_groups(records(*mixed), 3)


def test_fewer_kinds_of_prompts_than_groups_give_fewer_groups() -> None:
    assert similarity_groups(records("a b", "a b", "c d", "c d", "c d"), 5) == (1, 1, 0, 0, 0)
    assert similarity_groups(records("a", "b", "c"), 5) == (0, 0, 0)  # no word twice
    with pytest.raises(ValueError, match="no records"):
        similarity_groups([], 5)
