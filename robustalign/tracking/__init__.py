"""MLflow: the one package that imports it, and only when it is used (it costs seconds of CPU)."""

from robustalign.tracking.importer import Importer, RunView
from robustalign.tracking.store import open_store

__all__ = ["Importer", "RunView", "open_store"]
