"""SelfCheckGPT passages in the form of WISE: the next sentence of a biography, corrected.

Fields: `prompt` (the passage so far), `target_new` (its right next sentence), `subject`,
`locality_prompt` and `locality_ground_truth` (web text, cut in two). There is no rephrase. LEMoE
(arXiv:2406.20030v1, Table 1) scores perplexity and locality.
"""

from __future__ import annotations

from trainables.reading.loaded import (
    Fields,
    Loaded,
    Loader,
    Paths,
    load_records,
    optional_text_of,
    text_of,
)
from trainables.records import EditRecord, Question

VERSION = 1
TARGET_FIELDS = ("alt",)
HAS_PASSAGES = True
EXAMPLES = (
    {
        "prompt": "This is a passage about person {n}. He has lived in Orm since year {n}.",
        "target_new": "He was born in town {n}.",
        "subject": "person {n}",
        "locality_prompt": "Maps of region {n}, cut in the mi",
        "locality_ground_truth": "ddle of a word.",
    },
)


def load(paths: Paths, target_field: str | None = None) -> Loaded:
    """Records of hallucination files, locality texts being of kind `locality_far`.

    A record without prompt, target or one half of its locality text is left out, so that every
    score of an arm is a mean over the same records.

    Args:
        paths: JSON list or JSON lines, possibly gzipped.
        target_field: `alt`, the only one: the files hold no other answer.

    Raises:
        ConfigError: If `target_field` is not `alt`.
        DataError: If a file is missing, empty or broken, or if no record is usable.
    """
    loader = Loader("hallucination", VERSION, TARGET_FIELDS, _record, has_templates=False)
    return load_records(paths, loader, target_field)


def _record(fields: Fields, record_id: str, _: str) -> EditRecord:
    locality = Question(
        text_of(fields, "locality_prompt"), text_of(fields, "locality_ground_truth"), "locality_far"
    )
    return EditRecord(
        record_id=record_id,
        prompt=text_of(fields, "prompt"),
        target_new=text_of(fields, "target_new"),
        subject=optional_text_of(fields, "subject"),
        locality=(locality,),
    )
