"""Who follows a recipe of CONTRIBUTING.md ends with something that the commands and tests know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import copy_house, run_in
from tests.recipes import read_recipes

RECIPES = read_recipes()
recipe_of_each = pytest.mark.parametrize("name", sorted(RECIPES))


def test_there_is_a_recipe_for_all_that_is_added_without_code_elsewhere() -> None:
    assert sorted(RECIPES) == ["data set", "family", "method", "metric", "published table"]


@recipe_of_each
def test_recipe_when_followed_then_the_command_knows_what_was_added(
    name: str, tmp_path: Path
) -> None:
    recipe, house = RECIPES[name], copy_house(tmp_path)
    before = run_in(house, recipe.look)
    recipe.follow(house)
    after = run_in(house, recipe.look)
    assert before.returncode != 0, before.stdout
    assert after.returncode == 0, after.stdout


@pytest.mark.slow
@recipe_of_each
def test_recipe_when_followed_then_its_proof_passes(name: str, tmp_path: Path) -> None:
    recipe, house = RECIPES[name], copy_house(tmp_path)
    recipe.follow(house)
    done = run_in(house, recipe.proof)
    assert done.returncode == 0, done.stdout
