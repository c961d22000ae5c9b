"""Prints the published tables with our own numbers, read from MLflow, beside the paper's.

Rooms, each of which imports only those below it:

- `table`, `figure`, `report`, `claims`, `presets`: the commands.
- `page`: a whole store, or several, as one HTML page.
- `reports`: reads a store and makes finished tables, verdicts on claims, or the presets that a
  search chose.
- `figures`: draws a table.
- `layouts`: arranges the arms of one published table as the paper does.
- `subsets`: divides an arm into subsets of its records.
- `reading`: reads MLflow's runs as rows, one per trial.
- `published`: the papers' numbers and claims, and whether ours may be compared with them.
- `render`, `counts`, `known`: cells and tables as text; and below them the fall-backs counted, and
  what the backbone knew beforehand.
- `aggregate`: makes one mean and interval per arm of these rows.
- `intervals`: the intervals, over seeds or over subjects.
- `metrics`: what may be measured, and how a table shows it.
- `arguments`, `errors`: the options of the commands, and errors for the user.

The published numbers themselves are the CSV files of paper_tables/.
"""
