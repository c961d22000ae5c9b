"""Everything that touches a model; usable from a notebook without Ray or MLflow.

Rooms, each of which imports only those below it:

- `trials`, `notebook`: one trial, with Ray or without; an editor for a notebook.
- `settings_check`: whether a method takes its settings, without loading torch.
- `methods`: one editor a file. `edits`: which records a trial edits.
- `assemblies`: parts of `moe` put on a backbone, for several methods.
- `artefacts`: what trials share, stored under the hash of all that it was made of.
- `moe`, `backbones`, `metrics`: parts; none imports another.
- `datasets`: one data set a file: where its records come from. `draws`: which are drawn, and how
  they are ordered and cut into batches.
- `optimise`: the training loop, and a batch under way.
- `prompts`, `seeding`: text to token rows, random generators. `reading`: objects out of files, and
  records of them, for several data sets.
- `interfaces`: what passes between the rooms, and the protocol of an edit method.
- `spec`: what a trial is told.
- `parallel`: one trial on several processes, or a few rows at a time.
- `records`, `pulse`: what a data set is made of; what a running trial says of itself.
- `partial_import`, `field_kinds`: a method's settings out of its file, and whether values fit them.
- `bases`: a YAML that stands on another.
- `cache`, `errors`: where shared files lie, and errors for the user.
"""
