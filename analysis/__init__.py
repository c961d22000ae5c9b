"""MLflow runs and published numbers to the published tables, ours beside theirs.

The path of a number: `reading` makes tidy rows of MLflow's runs, `aggregate` turns rows into one
mean and interval per arm, `published` loads the papers' numbers and pairs the two, a file of
`layouts` arranges them as the paper does, `render` prints; `table` and `claims` are the commands.
"""
