"""A layer that the backbone lacks is refused by every method that edits one, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.test_every_method import METHODS, make
from trainables.artefacts import Artefacts
from trainables.bases import read_method
from trainables.errors import ConfigError
from trainables.interfaces import Backbone

NAMES = [name for name in METHODS if "edit_layer" in read_method(name)]


@pytest.mark.parametrize("name", NAMES)
def test_edit_layer_when_there_is_none_then_the_range_is_named(
    name: str, llama: Backbone, tmp_path: Path
) -> None:
    artefacts = Artefacts(tmp_path)
    with pytest.raises(ConfigError, match=r"method\.edit_layer is 4; allowed: 0 to [23]"):
        make(name, llama, artefacts, edit_layer=4)
