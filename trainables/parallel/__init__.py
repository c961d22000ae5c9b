"""One trial on several processes, or a few rows at a time."""
