"""Draws records and puts them into order and batches; pure, and the same for every method."""
