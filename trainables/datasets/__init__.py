"""Data sets: each module turns one source into edit records."""
