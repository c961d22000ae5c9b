"""Plans a sweep, runs its trials with Ray and keeps their results; knows nothing of tensors.

Rooms, each of which imports only those below it:

- `sweep`, `ui`: the commands.
- `running`: starts or joins Ray, runs the trials and handles their results.
- `terminal`, `tracking`: print on the terminal, and write to MLflow.
- `answers`: writes the answers that a serial sweep edits into a file.
- `precheck`: checks a plan before any model is loaded.
- `store`, `forecast`: keep results on disk, and forecast time, memory and room on a cluster.
- `planning`: turns one configuration into trials, each with its identity.
- `settings`: turns typed words and YAML files into one checked configuration.
- `threads`, `redaction`, `errors`: threads per process, text without secrets, the user's errors.

`settings`, `planning` and `forecast` import neither torch, Ray nor MLflow, so that listing and
planning answer at once.
"""
