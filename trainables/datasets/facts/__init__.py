"""The made-up world, and the data set of its facts: see `made_up`."""
