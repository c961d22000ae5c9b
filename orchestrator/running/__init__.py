"""Ray for the time of a sweep: one driver, its trials, and what becomes of their results."""
