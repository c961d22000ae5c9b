"""MLflow runs and published numbers to the published tables, ours beside theirs.

The path of a number: `runs` reads MLflow into tidy rows, `aggregate` turns rows into one mean and
interval per arm, `paper_numbers` loads the published rows, `compare` pairs the two, a file of
`layouts` arranges them as the paper does, `render` prints, `table` is the command.
"""
