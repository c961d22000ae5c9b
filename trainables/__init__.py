"""Everything that touches a model; usable from a notebook without Ray or MLflow.

Rooms, each of which imports only those below it:

- `trials`, `notebook`: one trial, with Ray or without.
- `methods`: one editor a file. `edits`: which records a trial edits.
- `assemblies`: parts of `moe` put on a backbone, for several methods.
- `moe`, `backbones`, `metrics`: parts; none imports another.
- `datasets`: one data set a file: where its records come from. `draws`: which are drawn, and how
  they are ordered and cut into batches.
- `reading`: objects out of files, and records of them, for several data sets.
- `parallel`: one trial on several processes, or in pieces of its rows.

Beside them stand what all share: `spec` (what a trial is told), `interfaces`, `records`, `prompts`,
`optimise`, `artefacts`.
"""
