"""MEMoE v2: see `method`."""
