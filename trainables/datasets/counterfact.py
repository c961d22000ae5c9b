"""CounterFact in the flat form of EasyEdit: statements to complete, with a false completion.

Fields: `prompt` (subject filled in), `target_new` (false on purpose), `subject`, `ground_truth`,
`rephrase_prompt` (one or several), `locality_prompt` and `locality_ground_truth` (another subject
of the same relation). The nested form of the original data set is not read.
"""

from __future__ import annotations

from pathlib import Path

from trainables.datasets.loaded import (
    Fields,
    Loaded,
    TargetField,
    load_records,
    optional_text_of,
    text_of,
    texts_of,
)
from trainables.records import EditRecord, Question

VERSION = 1


def load(path: Path, target_field: TargetField = "alt") -> Loaded:
    """Records of a CounterFact file, locality questions being of kind `locality_near`.

    A record without prompt, target, rephrase or locality prompt is left out, so that every score
    of an arm is a mean over the same records.

    Args:
        path: JSON list or JSON lines, possibly gzipped.
        target_field: `alt` edits towards `target_new`, `answers` towards `ground_truth`.

    Raises:
        ConfigError: If `target_field` is unknown.
        DataError: If the file is missing, empty or broken, or if no record is usable.
    """

    def parse(fields: Fields, record_id: str) -> EditRecord:
        return _record(fields, record_id, target_field)

    return load_records(
        path, dataset="counterfact", version=VERSION, target_field=target_field, parse=parse
    )


def _record(fields: Fields, record_id: str, target_field: TargetField) -> EditRecord:
    locality = Question(
        text_of(fields, "locality_prompt"),
        text_of(fields, "locality_ground_truth"),
        "locality_near",
    )
    return EditRecord(
        record_id=record_id,
        prompt=text_of(fields, "prompt"),
        target_new=text_of(fields, "target_new" if target_field == "alt" else "ground_truth"),
        subject=optional_text_of(fields, "subject"),
        rephrases=texts_of(fields, "rephrase_prompt"),
        locality=(locality,),
        true_answer=optional_text_of(fields, "ground_truth"),
    )
