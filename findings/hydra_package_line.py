"""Hydra 1.3.8 ignores `# @package _global_` in silence when any line of a file stands above it.

The keys of the file then land below its group's name, and the values that they were to override
stay as they are.
"""

from __future__ import annotations

import sys

from pinned import check

PROGRAM = """
import pathlib

from hydra import compose, initialize_config_dir

here = pathlib.Path.cwd() / "conf"
(here / "group").mkdir(parents=True)
(here / "config.yaml").write_text("defaults: [_self_, group: null]\\nrate: 1\\n")
(here / "group" / "first.yaml").write_text("# @package _global_\\n# a comment\\nrate: 2\\n")
(here / "group" / "second.yaml").write_text("# a comment\\n# @package _global_\\nrate: 2\\n")
with initialize_config_dir(str(here), version_base=None):
    for name in ("first", "second"):
        print(name, compose("config", [f"group={name}"]))
"""
EXPECTED = """first {'rate': 2}
second {'rate': 1, 'group': {'rate': 2}}
"""

if __name__ == "__main__":
    sys.exit(check(["hydra-core==1.3.8", "omegaconf==2.3.1"], PROGRAM, EXPECTED))
