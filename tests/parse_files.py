"""Parses the YAML and TOML files named on the command line; a pre-commit hook."""

import sys
import tomllib
from pathlib import Path

import yaml

for name in sys.argv[1:]:
    if name.endswith(".toml"):
        tomllib.loads(Path(name).read_text())
    else:
        list(yaml.safe_load_all(Path(name).read_text()))
