"""Decides what runs, where and when it stops; knows nothing of tensors.

Rooms, each of which imports only those below it:

- `sweep`, `ui`: the commands.
- `running`: Ray for the time of a sweep.
- `terminal`, `tracking`: what is printed, and what goes to MLflow.
- `precheck`: what can be known of a plan before anything is loaded.
- `store`, `forecast`: what a crash cannot take, and what a plan takes.
- `planning`: from one configuration to trials, each with its identity.
- `settings`: words that are typed and YAML files -> one checked configuration.
- `threads`, `redaction`, `errors`: how processes wait, text without secrets, errors for the user.

`settings`, `planning` and `forecast` import neither torch, Ray nor MLflow, so that listing and
planning answer at once.
"""
