"""Forecasts the time, memory and room on a cluster that a plan takes; pure."""
