from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables.artefacts import Artefacts
from trainables.assemblies.gece import (
    Calibration,
    Corpus,
    GeceSettings,
    calibration,
    text_word_counts,
)
from trainables.backbones.forward.site import Site
from trainables.backbones.forward.split import Split
from trainables.errors import EditDiverged
from trainables.interfaces import Backbone, Edit
from trainables.prompts import edit_batch

LAYER = 2
PROMPTS = ("The capital of Fooland is", "Who wrote The Long Tide?", "Ada Quell works for")
PLAIN = GeceSettings(
    gece_reference="true_answer",
    gece_target="target_new",
    gece_denominator="none",
    gece_word_source="none",
    gece_mean_over="batch",
    meteor_penalty=0.0,
    meteor_synonyms="none",
)
WORDS = {"vesper": 3, "oslo": 1, "who": 5}


@pytest.fixture
def artefacts(tmp_path: Path) -> Artefacts:
    return Artefacts(tmp_path)


def calibrated(
    backbone: Backbone,
    artefacts: Artefacts,
    edits: tuple[Edit, ...],
    settings: GeceSettings = PLAIN,
    words: dict[str, int] | None = None,
    training: tuple[Edit, ...] = (),
) -> Calibration:
    split = Split(backbone, LAYER, artefacts.prefix_cache)
    site = Site(backbone, LAYER, backbone.down_path(LAYER), artefacts.prefix_cache)
    batch = edit_batch(backbone.tokenizer, edits, end=True)
    words = WORDS if words is None else words
    return calibration(batch, settings, split, site, artefacts, Corpus(words, training))


def test_calibration_when_the_true_answer_is_unknown_then_its_uncertainty_stands_in(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper") for prompt in PROMPTS)
    found = calibrated(llama, artefacts, edits)
    torch.testing.assert_close(found.gece, 1.0 - found.confidence)
    assert found.counts == {"gece_without_true_answer": 3, "meteor_without_synonyms": 3}


def test_calibration_when_no_word_is_right_then_is_the_confidence_in_the_wrong_answer(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper", true_answer="xyzzy") for prompt in PROMPTS)
    found = calibrated(llama, artefacts, edits)
    torch.testing.assert_close(found.gece, found.confidence)
    assert found.counts["gece_without_true_answer"] == 0


def test_calibration_when_the_reference_is_the_target_then_no_true_answer_is_missed(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper", true_answer="xyzzy") for prompt in PROMPTS)
    settings = replace(PLAIN, gece_reference="target_new")
    against_target = calibrated(llama, artefacts, edits, settings)
    assert "gece_without_true_answer" not in against_target.counts
    same_words = tuple(Edit(prompt, "Vesper", true_answer="Vesper") for prompt in PROMPTS)
    torch.testing.assert_close(
        against_target.gece, calibrated(llama, artefacts, same_words).gece, atol=1e-6, rtol=0
    )


def test_calibration_when_words_are_counted_then_frequent_subjects_have_less(
    llama: Backbone, artefacts: Artefacts
) -> None:
    subjects = ("Vesper", "Oslo", None)
    edits = tuple(Edit(p, "Lumen", s) for p, s in zip(PROMPTS, subjects, strict=True))
    plain = calibrated(llama, artefacts, edits)
    found = calibrated(llama, artefacts, edits, replace(PLAIN, gece_word_source="subject"))
    # 9 words + 3 different + 1 = 13: (3 + 1) / 13, (1 + 1) / 13; the prompt's four words, each
    # once more than it occurs, (1 + 1 + 1 + 1) / 4 / 13
    alpha = torch.tensor([4 / 13, 2 / 13, 1 / 13], dtype=torch.float64)
    torch.testing.assert_close(found.gece, plain.gece / alpha)
    assert found.counts["word_frequency_from_prompt"] == 1


def test_calibration_when_there_is_no_text_then_alpha_is_one_and_it_is_counted(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Lumen", "Oslo") for prompt in PROMPTS)
    settings = replace(PLAIN, gece_word_source="subject")
    found = calibrated(llama, artefacts, edits, settings, words={})
    torch.testing.assert_close(found.gece, calibrated(llama, artefacts, edits).gece)
    assert found.counts["word_frequency_without_text"] == 3


def test_calibration_when_the_gradient_divides_then_layer_and_target_matter(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper", true_answer="Oslo Bay") for prompt in PROMPTS)
    by_target = calibrated(llama, artefacts, edits, replace(PLAIN, gece_denominator="gradient"))
    by_truth = calibrated(
        llama,
        artefacts,
        edits,
        replace(PLAIN, gece_denominator="gradient", gece_target="true_answer"),
    )
    assert bool((by_target.gece > 0).all())
    assert not torch.allclose(by_target.gece, by_truth.gece)


def test_calibration_when_the_mean_goes_over_training_then_an_edit_does_not_depend_on_its_batch(
    llama: Backbone, artefacts: Artefacts
) -> None:
    training = tuple(Edit(f"{name} works for", "Oslo Bay") for name in ("Ivo Carr", "Mira Sand"))
    edits = tuple(Edit(prompt, "Vesper", true_answer="Oslo") for prompt in PROMPTS)
    settings = replace(PLAIN, gece_denominator="printed", gece_mean_over="training")
    together = calibrated(llama, artefacts, edits, settings, training=training)
    alone = [calibrated(llama, artefacts, (e,), settings, training=training) for e in edits]
    torch.testing.assert_close(
        torch.cat([each.gece for each in alone]), together.gece, rtol=1e-3, atol=0
    )
    # the batch itself as training part: E as without one
    own = calibrated(llama, artefacts, edits, settings, training=edits)
    over_batch = replace(settings, gece_mean_over="batch")
    torch.testing.assert_close(own.gece, calibrated(llama, artefacts, edits, over_batch).gece)
    assert "gece_mean_of_batch" not in own.counts


def test_calibration_when_there_is_no_training_part_then_the_batch_makes_the_mean_and_it_is_counted(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper", true_answer="Oslo") for prompt in PROMPTS)
    settings = replace(PLAIN, gece_denominator="printed")
    found = calibrated(llama, artefacts, edits, replace(settings, gece_mean_over="training"))
    torch.testing.assert_close(found.gece, calibrated(llama, artefacts, edits, settings).gece)
    assert found.counts["gece_mean_of_batch"] == 3


def test_calibration_when_asked_again_then_the_backbone_is_not(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper", true_answer="Oslo") for prompt in PROMPTS)
    first = calibrated(llama, artefacts, edits)
    with torch.no_grad():
        llama.model.get_parameter(llama.layer_path(3) + ".mlp.down_proj.weight").zero_()
    assert torch.equal(calibrated(llama, artefacts, edits).gece, first.gece)
    other = (*edits[:2], replace(edits[2], true_answer="Lumen"))
    assert not torch.equal(calibrated(llama, artefacts, other).gece, first.gece)


def test_calibration_when_gece_is_not_finite_then_the_edit_is_named(
    llama: Backbone, artefacts: Artefacts
) -> None:
    edits = tuple(Edit(prompt, "Vesper") for prompt in PROMPTS)
    with torch.no_grad():  # what enters the layer is zero, and with it every gradient
        llama.model.get_parameter(llama.layer_path(LAYER) + ".mlp.up_proj.weight").zero_()
    with pytest.raises(EditDiverged, match=r"GECE is inf for the edit 'The capital.*printed"):
        calibrated(llama, artefacts, edits, replace(PLAIN, gece_denominator="printed"))


def test_text_word_counts_when_the_checkpoint_keeps_no_text_then_come_from_the_edits(
    llama: Backbone, tmp_path: Path
) -> None:
    training = (Edit("Ada works for", "Lumen", training_locality=("Who wrote it?",)),)
    bare = replace(llama, folder=tmp_path)
    assert text_word_counts(bare, training)["lumen"] == 1
    assert text_word_counts(bare, ()) == {}
    (tmp_path / "training_text.txt").write_text("Vesper Bay\nBay of Vesper\n")
    assert text_word_counts(bare, training) == {"vesper": 2, "bay": 2, "of": 1}
