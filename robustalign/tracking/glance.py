"""A look into a SQLite store without MLflow, which takes seconds to import: is there anything to read?"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from robustalign.errors import ConfigError, choices

QUERY = """
select e.name, count(r.run_uuid) from experiments e
left join runs r on r.experiment_id = e.experiment_id and r.lifecycle_stage = 'active'
where e.lifecycle_stage = 'active' group by e.name
"""


def check_results(file: Path, experiment: str) -> None:
    """Refuse an experiment that a store does not have, or that has no runs. A store that cannot be read so passes.

    Raises:
        ConfigError: with the experiments that have runs.
    """
    runs: dict[str, int] = {}
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(file)) as connection:
        runs = dict(connection.execute(QUERY).fetchall())
    if not runs or runs.get(experiment):
        return
    names = choices(name for name, count in runs.items() if count)
    missing = "has no runs" if experiment in runs else "is not"
    raise ConfigError("experiment", f"{experiment!r} {missing} in {file}; with runs: {names}")


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)
