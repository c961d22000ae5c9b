"""Draws the tables of this package: the same numbers, intervals and published values."""

# Here, as the command's help does without what draws.
FORMATS = ("svg", "png", "pdf")
KINDS = ("auto", "dots", "curve", "heat_map", "agreement")
