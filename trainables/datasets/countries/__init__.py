"""Facts about the countries of the world: see `dataset`."""
