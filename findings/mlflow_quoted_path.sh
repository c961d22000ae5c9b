#!/usr/bin/env bash
# MLflow 3.17.2 makes a folder of the quoted path of a SQLite address, where SQLAlchemy 2.1.9 opens the unquoted one.
#
# SQLAlchemy 2.1 writes a `%` or `?` of a path as `%25` or `%3F` and reads it back; MLflow cuts the
# path from the address as it stands. A new store in such a folder cannot be opened, after more than
# a minute of retries (left out here); one that is there already works, and gets an empty folder
# beside it.
. "$(dirname "$0")/lib.sh"

check mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1 <<'PROGRAM' 3<<'EXPECTED'
import time
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy.engine import URL

time.sleep = lambda seconds: None
for name in ("there", "new"):
    here = Path.cwd() / name
    database = here / "80%" / "m.db"
    if name == "there":
        database.parent.mkdir(parents=True)
    address = URL.create("sqlite", database=str(database)).render_as_string()
    try:
        MlflowClient(address).search_experiments()
        print(name, "opened", end=" ")
    except Exception as error:
        print(name, str(error).splitlines()[0], end=" ")
    print(sorted(str(path.relative_to(here)) for path in here.rglob("*")))
PROGRAM
there opened ['80%', '80%/m.db', '80%25']
new (sqlite3.OperationalError) unable to open database file ['80%25']
EXPECTED
