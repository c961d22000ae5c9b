"""One file per published layout; the file name is the id of the table, found when it is asked for.

A layout file holds `LAYOUT`, built of a title, the protocol keys that may differ within one table,
and a function that arranges the arms of a section. `generic` serves ablations without a published
table.
"""
