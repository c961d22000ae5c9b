"""Layouts: how the arms of one section are arranged in the rows and columns of a published table.

`catalogue` holds every layout by the id of its table. Most are a `Matrix` or a grid; a table that
needs code of its own is a file of `special`. `generic` serves ablations without a published table.
"""
