"""Estimates by GECE how often a backbone saw each record, for draws by frequency."""

from __future__ import annotations

from dataclasses import replace

from trainables.artefacts import Artefacts
from trainables.assemblies.gece import Corpus, GeceSettings, calibration, text_word_counts
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.edits.sources import Source
from trainables.interfaces import Backbone
from trainables.prompts import edit_batch

# The defaults of the method whose paper ranks by GECE; see `gece` on why.
_SETTINGS = GeceSettings(
    gece_reference="true_answer",
    gece_target="target_new",
    gece_denominator="gradient",
    gece_word_source="subject",
    gece_mean_over="batch",  # here of all records
    meteor_penalty=0.0,
    meteor_synonyms="none",
)
_FALL_BACKS = (
    "word_frequency_from_prompt",
    "word_frequency_without_words",
    "gece_without_true_answer",
)


def with_gece(source: Source, backbone: Backbone, artefacts: Artefacts) -> Source:
    """`source` with minus the GECE of each record as its frequency: smaller for rarer ones.

    MEMoE v2 (Eq. 9), at the FFN of the backbone's middle layer, over all records at once. Alpha is
    taken from the training part, where the checkpoint keeps no text of its own training; where
    there is none (`part: all`), from the records that are ranked. `ranked` says of how many records
    alpha, or the true answer, had to come from elsewhere.

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
    training = [each.edit for each in source.training] or list(batch.edits)
    found = calibration(
        batch,
        _SETTINGS,
        Split(backbone, layer, cache),
        Site(backbone, layer, backbone.down_path(layer), cache),
        artefacts,
        Corpus(text_word_counts(backbone, training)),
    )
    scores = found.gece.tolist()
    records = (
        replace(record, frequency=-score)
        for record, score in zip(source.records, scores, strict=True)
    )
    ranked = {f"ranked_by_{name}": found.counts.get(name, 0) for name in _FALL_BACKS}
    return replace(source, records=tuple(records), ranked=ranked)
