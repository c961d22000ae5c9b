"""ROME: see `method`."""
