"""GRACE: see `method`."""
