"""Several trials of one process, trained together through the frozen layers that they share."""
