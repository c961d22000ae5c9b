"""LoRA: see `method`."""
