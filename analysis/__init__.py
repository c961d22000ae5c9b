"""MLflow runs and published numbers to the published tables, ours beside theirs.

Rooms, each of which imports only those below it:

- `table`, `claims`: the commands.
- `table_report`, `claim_report`: from a store to finished tables, and to verdicts on claims.
- `layouts`: arranges the arms of one published table as the paper does.
- `subsets`: an arm divided by its records.
- `reading`: MLflow's runs as tidy rows.
- `published`: the papers' numbers, when ours may stand beside them, and their claims.
- `render`, `counts`: cells and tables as text, and the fall-backs counted below them.
- `aggregate`: tidy rows to one mean and interval per arm.
- `metrics`: what may be measured, and how a table shows it.
- `arguments`, `errors`: the commands' options, and errors for the user.

The published numbers themselves are the CSV files of paper_tables/.
"""
