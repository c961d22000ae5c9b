"""PyYAML 6.0.3 reads `1e-4` as a string, `1.0e-4` as a number.

YAML 1.1, which it follows, asks for a dot in a float; YAML 1.2 and JSON do not. A learning rate
typed without the dot is then a word, and a comparison with it fails far from the file.
"""

from __future__ import annotations

import sys

from pinned import check

PROGRAM = """
import yaml

print(yaml.safe_load("{a: 1e-4, b: 1.0e-4, c: 1.0e4, d: 1.0e+4}"))
"""
EXPECTED = "{'a': '1e-4', 'b': 0.0001, 'c': '1.0e4', 'd': 10000.0}\n"

if __name__ == "__main__":
    sys.exit(check(["pyyaml==6.0.3"], PROGRAM, EXPECTED))
