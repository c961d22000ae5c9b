"""Slow float64 references of the published equations, and the tests that compare with them."""
