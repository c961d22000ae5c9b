"""Everything that touches a model; usable from a notebook without Ray or MLflow.

Rooms, each of which imports only those below it:

- `trials`: one trial, with Ray or without. `notebook`: an editor to use from a notebook.
- `settings_check`: whether a method takes its settings, without loading torch.
- `ability`: tasks that no edit is about, asked of an edited model and of the unedited backbone.
- `methods`: one editor a file. `edits`: which records a trial edits.
- `assemblies`: parts of `moe` joined to a backbone, where several methods use the same ones.
- `artefacts`: results that trials share, each stored under the hash of all its inputs.
- `moe`, `backbones`, `metrics`: parts; none imports another.
- `datasets`: one data set a file: where its records come from. `draws`: the rules by which records
  are drawn, ordered and put into batches.
- `optimise`: the training loop of all gradient methods, and the batch that it works on.
- `prompts`, `seeding`: text to token rows; random generators. `reading`: reads files of records,
  for several data sets, and of answers.
- `states`: copies what a trial needs to go on, and stores it.
- `interfaces`: what passes between the rooms, and the protocol of an edit method.
- `spec`: the settings of one trial, as typed attributes.
- `passing`: a loss in two halves, between which its rows pass frozen layers.
- `parallel`: one trial on several processes, or a few rows at a time; a GPU's memory.
- `records`, `pulse`: the records of a data set; a file in which a running trial reports progress.
- `partial_import`, `field_kinds`: read a method's settings without torch; check their values.
- `bases`: YAML files that inherit from another one.
- `cache`, `errors`: where shared files lie, and errors for the user.
"""
