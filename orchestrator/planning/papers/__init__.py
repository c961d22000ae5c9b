"""What the papers print: presets, readings, printed cells, and what a plan does not meet of it."""
