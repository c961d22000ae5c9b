"""COMEBA-HK: MEMIT on copies of projections that answer for single tokens alone."""
