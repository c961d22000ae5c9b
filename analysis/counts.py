"""The lines below a table that say, in plain words, how often its trials fell back or left out.

A metric `count.<name>` says how often a trial used something other than what was asked for, or left
something out. A table prints each count that is not zero; one without words here goes by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.aggregate import Arm

_MOST_ARMS = 6  # named in one line


@dataclass(frozen=True)
class _Kind:
    """Words for one kind of count.

    Attributes:
        text: What happened, as it is printed.
        of_edits: Whether edits are counted, so that their number stands beside it.
        is_of_data: Whether it is a property of the data set: equal in all seeds, never summed.
    """

    text: str
    of_edits: bool = False
    is_of_data: bool = False


def _edits(text: str) -> _Kind:
    return _Kind(text, of_edits=True)


_KINDS: Mapping[str, _Kind] = {
    "excluded": _Kind("records of the data set left out", is_of_data=True),
    "subject_absent_in_data": _Kind(
        "records of the data set whose subject is not in the prompt", is_of_data=True
    ),
    "ranked_by_word_frequency_from_prompt": _Kind(
        "records ranked by the words of their prompt, not of their subject", is_of_data=True
    ),
    "ranked_by_word_frequency_without_words": _Kind(
        "records ranked without word frequencies", is_of_data=True
    ),
    "ranked_by_gece_without_true_answer": _Kind(
        "records ranked without a true answer", is_of_data=True
    ),
    "unchanged_edits": _edits("new answer equal to the true one, so that nothing changes"),
    "answers_topped_up": _Kind("older answers taken from other relations"),
    "last_answers_of_file": _Kind(
        "questions whose last answer in the file is not the data set's target: scored by the "
        "file's, without portability"
    ),
    "answers_not_told_apart": _Kind(
        "older answers that begin the last one of their question, or begin with it: none of them "
        "can be stale, and the stale rate is of the questions whose older answers can be told apart"
    ),
    "joins_retokenised": _Kind(
        "prompts that share a token with their target, joined as generation would"
    ),
    "blank_first_tokens": _edits("target begins with a lone blank, scored as a token"),
    "subject_absent": _edits(
        "subject absent from the prompt (memit and its kin and rome took the last token, wise and "
        "arm prefixes)"
    ),
    "entity_from_subject": _edits("anchor made of a known subject"),
    "entity_from_sentence": _edits("no anchor found in the prompt, used the whole prompt"),
    "locality_rows_missing": _Kind("unrelated prompts missing in training"),
    "scale_from_edits": _Kind("batches that had to give the scale themselves"),
    "centre_from_table": _Kind("batches whose anchors are centred by the embedding table"),
    "centre_from_edits": _Kind(
        "streams and single batches whose mean of unrelated prompts is of their first edits' own"
    ),
    "uncentred": _Kind(
        "streams and single batches without unrelated prompts, whose mean was not taken off"
    ),
    "covariance_from_samples": _Kind(
        "batches with second moments of text that the backbone sampled, for want of another"
    ),
    "nothing_protected": _Kind(
        "batches that no direction of ordinary text was kept from, all being below null_threshold"
    ),
    "no_statistics": _Kind("batches that changed nothing, for want of a second token to compare"),
    "new_to_all_experts": _edits("new to all experts, one was drawn"),
    "no_selection_score": _edits("no unrelated prompt to choose an expert by, one was drawn"),
    "experts_not_added": _Kind("experts not added, for want of edits"),
    "experts_beyond_edits": _Kind("experts beyond the number of edits"),
    "empty_experts": _Kind("experts that learned no edit"),
    "edits_without_label": _edits("no expert prescribed, the router chose in training"),
    "edits_without_locality": _edits("no unrelated prompt to hold in training"),
    "gece_without_true_answer": _edits("no true answer known to METEOR, counted as right"),
    "meteor_without_synonyms": _edits("METEOR without its stage of synonyms"),
    "word_frequency_without_text": _edits("no text to count words in, every word alike"),
    "word_frequency_without_words": _edits("no word to count, every word alike"),
    "gece_mean_of_batch": _edits("no training part, so E of GECE is the batch's"),
    "word_frequency_from_prompt": _edits("word frequency taken from the prompt, not the subject"),
    "already_right": _edits("answered rightly before, not edited"),
    "added": _edits("made a new entry of the codebook"),
    "split": _edits("split an entry of the codebook"),
    "expanded": _edits("widened an entry of the codebook"),
    "overwritten": _edits("overwrote an entry of the codebook"),
}


def count_lines(arms: Sequence[Arm]) -> list[str]:
    """One line for each count that some arm has; those with words of their own come first.

    Args:
        arms: Of one section, under names that tell them apart.
    """
    found = {name for arm in arms for name in arm.counts}
    names = [name for name in _KINDS if name in found] + sorted(found - set(_KINDS))
    lines = [_line(name, arms) for name in names]
    return [line for line in lines if line]


def num_edits(protocol: Mapping[str, Any]) -> int | None:
    """Edits of one trial; None where the protocol does not say."""
    size = protocol.get("num_edits")
    if size is None:
        return None
    repeats = protocol.get("num_batches") or 1 if protocol.get("kind") == "batch" else 1
    return int(size) * int(repeats)


def _line(name: str, arms: Sequence[Arm]) -> str:
    kind = _KINDS.get(name, _Kind(name))
    total: Callable[[Sequence[float]], float] = max if kind.is_of_data else sum
    shown = {
        arm.name: _shown(total(values), kind, len(values) * (num_edits(arm.protocol) or 0))
        for arm in arms
        if (values := arm.counts.get(name)) and total(values)
    }
    if not shown:
        return ""
    if len(set(shown.values())) == 1 and len(shown) == len({arm.name for arm in arms}):
        each = "" if len(shown) == 1 or kind.is_of_data else " in each arm"
        return f"{kind.text}: {next(iter(shown.values()))}{each}"
    parts = [f"{text} ({arm})" for arm, text in shown.items()]
    further = len(parts) - _MOST_ARMS
    more = f", and in {further} further arms" if further > 0 else ""
    return f"{kind.text}: {', '.join(parts[:_MOST_ARMS])}{more}"


def _shown(count: float, kind: _Kind, edits: int) -> str:
    return f"{count:g} of {edits} edits" if kind.of_edits and edits else f"{count:g}"
