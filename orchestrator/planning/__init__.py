"""Turns one checked configuration into the trials of a sweep, each with its identity; pure."""
