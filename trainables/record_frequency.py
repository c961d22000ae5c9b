"""How often a backbone saw each record of a data set, for draws by frequency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainables.artefacts import Artefacts
from trainables.backbones.split import Site, Split
from trainables.datasets.frequency_band import in_band
from trainables.errors import ConfigError
from trainables.gece import GeceSettings, calibration, text_word_counts
from trainables.interfaces import Backbone
from trainables.prompts import edit_batch
from trainables.sources import Source

SOURCES = ("known", "gece")
# The defaults of the method whose paper ranks by GECE; see `gece` on why.
_SETTINGS = GeceSettings(
    gece_reference="true_answer",
    gece_target="target_new",
    gece_denominator="gradient",
    gece_word_source="subject",
    meteor_penalty=0.0,
    meteor_synonyms="none",
)


def banded(spec: Mapping[str, Any], source: Source) -> Source:
    """`source` with the records of `dataset.frequency_band` alone; unchanged without a band.

    Before the backbone is loaded nothing is known of records that are ranked by GECE: all stay.

    Raises:
        ConfigError: If band or source of the frequencies do not fit; see `in_band`.
    """
    dataset = spec["dataset"]
    band, by = dataset.get("frequency_band"), dataset.get("frequency_source", SOURCES[0])
    if by not in SOURCES:
        allowed = " or ".join(SOURCES)
        raise ConfigError(f"dataset.frequency_source is {by!r}; it must be {allowed}")
    if band is None:
        return source
    if by == "gece" and any(record.frequency is None for record in source.records):
        return source
    return replace(source, records=in_band(source.records, band))


def with_gece(source: Source, backbone: Backbone, artefacts: Artefacts) -> Source:
    """`source` whose records bear minus their GECE as their frequency: the rarer, the smaller.

    MEMoE v2 (Eq. 9), at the FFN of the backbone's middle layer, over all records at once.

    Raises:
        EditDiverged: If a GECE is not finite.
    """
    layer = backbone.num_layers // 2
    cache = artefacts.prefix_cache
    batch = edit_batch(
        backbone.tokenizer,
        [source.to_edit(record) for record in source.records],
        end=True,
        device=backbone.device,
    )
    found = calibration(
        batch,
        _SETTINGS,
        Split(backbone, layer, cache),
        Site(backbone, layer, backbone.down_path(layer), cache),
        artefacts,
        text_word_counts(backbone, source.training),
    )
    scores = found.gece.tolist()
    records = (
        replace(record, frequency=-score)
        for record, score in zip(source.records, scores, strict=True)
    )
    return replace(source, records=tuple(records))
