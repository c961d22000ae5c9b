"""Prints for the user: listings, dry runs, progress and status."""
