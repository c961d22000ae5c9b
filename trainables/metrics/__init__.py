"""Scores an edited backbone."""
