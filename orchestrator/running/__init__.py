"""Runs a sweep with Ray: one driver, its trials, and what happens to their results."""
