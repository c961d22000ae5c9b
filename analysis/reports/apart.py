"""What tells the tables of one name from each other: backbone, data, else the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.aggregate import Section

_ALWAYS = ("backbone", "dataset")  # told wherever they differ
_THEN = ("part", "target field", "kind", "num_edits", "edit_batch_size", "num_batches", "order")
_DIGESTS = ("backbone digest", "data digest")
_DIGITS = 8  # of a digest
_MOST_CHARACTERS = 40  # of one value


def told_apart(sections: Sequence[Section]) -> tuple[str, ...]:
    """What each section has that others have not, in a few words; "" where there is one section.

    Backbone and data set are told where they differ; of the rest, in the order of `_THEN`, what is
    needed until no two sections are told alike; digests last.

    Args:
        sections: Of one table.

    Returns:
        For each section words such as `smollm2_135m, countries` or `facts, num_edits 100`.
    """
    told = [_told(section) for section in sections]
    others = dict.fromkeys(key for each in told for key in each)
    keys = [*_ALWAYS, *_THEN, *(key for key in others if key not in (*_ALWAYS, *_THEN, *_DIGESTS))]
    chosen: list[str] = []
    for key in (*keys, *_DIGESTS):
        now = len({_values(each, chosen) for each in told})
        more = len({_values(each, [*chosen, key]) for each in told})
        differs = len({each.get(key, "") for each in told}) > 1
        if more > now or (key in _ALWAYS and differs):
            chosen.append(key)
    return tuple(_words(each, chosen) for each in told)


def _told(section: Section) -> Mapping[str, str]:
    own = section.context
    return {
        "backbone": own["backbone"],
        "dataset": own["dataset"],
        "part": own["dataset_part"],
        "target field": own["target_field"],
        **{key: str(value) for key, value in section.protocol.items() if value is not None},
        "backbone digest": own["backbone_fingerprint"][:_DIGITS],
        "data digest": own["dataset_digest"][:_DIGITS],
    }


def _values(told: Mapping[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(told.get(key, "") for key in keys)


def _words(told: Mapping[str, str], keys: Sequence[str]) -> str:
    names = dict.fromkeys(told[key] for key in keys if key in _ALWAYS)  # facts on facts: once
    further = [
        f"{key} {told[key][:_MOST_CHARACTERS]}"
        for key in keys
        if key not in _ALWAYS and told.get(key)
    ]
    return ", ".join([*names, *further])
