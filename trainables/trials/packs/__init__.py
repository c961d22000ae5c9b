"""Trials, or edits of one trial, trained together through the frozen layers that they share."""
