"""MEMOIR: a residual memory of which each edit has some columns."""
