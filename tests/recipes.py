"""The recipes of CONTRIBUTING.md, as a reader would follow them.

A recipe is a section `## Add a ...`. Its code blocks say behind the language what they are:

- a path: the file to write, or with `>>` in front the file to add lines to,
- `step`: a command to run,
- `patch`: a change of files that are there, as a diff,
- `look`: a command that knows what was added and did not know it before,
- `proof`: the tests that hold what was added to its promises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.house import ROOT, run_in

_BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """What a section asks for.

    Attributes:
        steps: Blocks in their order: a path, `step` or `patch`, and what stands in the block.
        look: Command that shows what was added.
        proof: Command that tests it.
    """

    steps: tuple[tuple[str, str], ...]
    look: str
    proof: str

    def follow(self, house: Path) -> None:
        """Do what the recipe says, in a copy of the repository."""
        for what, text in self.steps:
            if what in ("step", "patch"):
                done = run_in(house, text if what == "step" else f"git apply <<'EOF'\n{text}EOF")
                assert done.returncode == 0, done.stdout
                continue
            path = house / what.removeprefix(">>")
            assert path.exists() == what.startswith(">>"), path
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)


def read_recipes() -> dict[str, Recipe]:
    """Every recipe, by what it adds."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        title = section.splitlines()[0]
        if title.startswith("Add a "):
            blocks = [(what, block) for _, what, block in _BLOCK.findall(section)]
            ((_, look),) = [each for each in blocks if each[0] == "look"]
            ((_, proof),) = [each for each in blocks if each[0] == "proof"]
            steps = tuple(each for each in blocks if each[0] not in ("look", "proof"))
            found[title.removeprefix("Add a ")] = Recipe(steps, look, proof)
    return found
