"""Edits one fact of a small model, then compares two editors on eight.

    python examples/edit_and_compare.py

The model is made here on first use (some 15 seconds) and knows a made-up world. It takes no sweep,
no Ray and no MLflow: `trainables` is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.backbones.loading import load_backbone
from trainables.cache import default_cache
from trainables.edits.embedded import ensure_backbone, facts_records
from trainables.interfaces import Edit, EditRecord
from trainables.notebook import Editor

# For the four layers of `facts_tiny`; the settings of search_spaces/method are for larger models.
EDITORS: Mapping[str, Mapping[str, Any]] = {
    "ft_m": {"edit_layer": 2, "edit_lr": 5e-3},
    "grace": {"edit_layer": 2},
}


def main() -> None:
    """Print what the model answers before and after, and the scores of both editors."""
    folder = ensure_backbone("facts_tiny", default_cache() / "backbones")
    records = facts_records(folder, "report")
    edit_one(folder, records[0])
    print("\neditor  reliability  generality  locality")
    for name, settings in EDITORS.items():
        scores = compare(folder, name, settings, records[:8])
        print(f"{name:6}" + "".join(f"{score:12.2f}" for score in scores))


def edit_one(folder: Path, record: EditRecord) -> None:
    """Change one fact, ask for it, and take the change out again."""
    editor = Editor("ft_m", load_backbone(folder), settings=EDITORS["ft_m"])
    print(f"before:  {record.prompt} {editor.ask(record.prompt)}")
    editor.edit([to_edit(record)])
    print(f"after:   {record.prompt} {editor.ask(record.prompt)}")
    editor.remove()
    print(f"removed: {record.prompt} {editor.ask(record.prompt)}")


def compare(
    folder: Path, name: str, settings: Mapping[str, Any], records: Sequence[EditRecord]
) -> tuple[float, float, float]:
    """Reliability, generality and locality of one editor, as shares of whole answers.

    Whole answers are a harder measure than the tables' share of tokens.
    """
    editor = Editor(name, load_backbone(folder), settings=settings)
    unrelated = [question.prompt for record in records for question in record.locality]
    before = [editor.ask(prompt) for prompt in unrelated]
    editor.edit([to_edit(record) for record in records])
    return (
        share(editor.ask(record.prompt) == record.target_new for record in records),
        share(
            editor.ask(prompt) == record.target_new
            for record in records
            for prompt in record.rephrases
        ),
        share(
            editor.ask(prompt) == answer for prompt, answer in zip(unrelated, before, strict=True)
        ),
    )


def to_edit(record: EditRecord) -> Edit:
    """What an editor may see of a record: never the questions that it is scored on."""
    return Edit(record.prompt, record.target_new, record.subject)


def share(outcomes: Iterable[bool]) -> float:
    """Share of True among them."""
    found = list(outcomes)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
