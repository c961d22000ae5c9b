import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from trainables.backbones.loading import load_backbone
from trainables.backbones.pristine import Pristine
from trainables.edits.embedded import EMBEDDED, embedded_name
from trainables.errors import ConfigError, DataError
from trainables.interfaces import Backbone, Edit
from trainables.notebook import Editor

EDITS = (Edit("Where was Ada Quell born?", "Vesper", "Ada Quell"),)
SETTINGS = {"edit_layer": 2, "edit_lr": 0.02, "num_steps": 60}


def test_editor_answers_the_edit_and_a_loaded_one_too(
    llama: Backbone, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    pristine = Pristine(llama.model, full_every=1)
    editor = Editor("ft_m", llama, settings=SETTINGS)
    before = editor.ask(EDITS[0].prompt)
    report = editor.edit(EDITS)
    assert report.num_edits == 1
    assert before != "Vesper"
    assert editor.ask(EDITS[0].prompt) == "Vesper"
    first = editor.ask(EDITS[0].prompt, max_tokens=1)
    assert first != "Vesper"
    assert "Vesper".startswith(first)
    editor.save(tmp_path / "edit.safetensors")
    editor.remove()
    pristine.check()
    other = Editor("ft_m", load_backbone(checkpoints["llama"]), settings=SETTINGS)
    other.load(tmp_path / "edit.safetensors")
    assert other.ask(EDITS[0].prompt) == "Vesper"


def test_load_when_there_is_no_file_then_says_so(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no saved edits"):
        Editor("ft_m", llama, settings=SETTINGS).load(tmp_path / "none")


def test_editor_when_a_setting_is_misspelt_then_names_the_nearest(llama: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"method.edit_lrr .* did you mean method.edit_lr"):
        Editor("ft_m", llama, settings={**SETTINGS, "edit_lrr": 1})


def test_editor_when_a_folder_is_called_like_an_embedded_backbone_then_that_presets_nothing(
    llama: Backbone, tmp_path: Path
) -> None:
    """The recipe beside the weights says which backbone it is."""
    folder = tmp_path / "facts-0123456789abcdef"
    folder.mkdir()
    settings = {"edit_layer": 2, "num_steps": 1}
    plain = Editor("ft_m", replace(llama, folder=folder), settings=settings)
    assert plain.settings["edit_lr"] == 5e-4  # of the method's file
    plain.remove()
    moved = folder.rename(tmp_path / "mine")
    recipe = {**asdict(EMBEDDED["facts"].recipe), "seed": 7}
    (moved / "recipe.json").write_text(json.dumps(recipe))
    preset = Editor("ft_m", replace(llama, folder=moved), settings=settings)
    assert preset.settings["edit_lr"] == 5e-3  # of backbone/facts.yaml
    preset.remove()


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_name_when_the_recipe_is_read_then_it_is_that_backbones(
    name: str, tmp_path: Path
) -> None:
    made = EMBEDDED[name]
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(made.recipe)))
    if made.source != "facts":
        (tmp_path / "lines.json").write_text("[1]")
    first = next(other for other in EMBEDDED if EMBEDDED[other].recipe == made.recipe)
    assert embedded_name(tmp_path) == first
    (tmp_path / "recipe.json").write_text("[1")
    assert embedded_name(tmp_path) is None
