"""Which records a trial edits, in which order and batches: pure, and the same for every method."""
