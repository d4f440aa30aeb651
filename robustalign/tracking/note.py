"""The description of a sweep's parent run, as the UI shows it: its origin, and the findings of a report."""

from __future__ import annotations

from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

BETWEEN = "\n\n---\n\n"
LONGEST = 7900  # of a tag


def write_note(client: MlflowClient, run_id: str, *, origin: str | None = None, findings: str | None = None) -> None:
    """Set one of the two parts of a run's description (markdown), and keep the other."""
    now = client.get_run(run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
    before, _, after = now.partition(BETWEEN)
    parts = [before if origin is None else origin, after if findings is None else findings]
    note = BETWEEN.join(parts) if parts[1] else parts[0]
    if len(note) > LONGEST:
        note = note[:LONGEST].rsplit("\n", 1)[0] + "\n\n(more in the artefacts)"
    if note != now:
        client.set_tag(run_id, MLFLOW_RUN_NOTE, note)
