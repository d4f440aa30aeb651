"""MLflow. No other package imports it, and this one only when it is used, as the import takes seconds."""

from robustalign.tracking.importer import Importer, RunView
from robustalign.tracking.store import open_store

__all__ = ["Importer", "RunView", "open_store"]
