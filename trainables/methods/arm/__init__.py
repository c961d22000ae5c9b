"""ARM: see `method`."""
