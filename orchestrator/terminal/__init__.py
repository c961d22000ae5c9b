"""All that is printed: listings, dry runs, progress and status."""
