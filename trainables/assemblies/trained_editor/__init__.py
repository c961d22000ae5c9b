"""Editors whose change of the weights comes from a network that was trained ahead of all edits."""
