"""Which records a trial edits: where they come from, which are drawn, and in which order."""
