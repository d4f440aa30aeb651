"""Hydra finds launchers in ``hydra_plugins`` only; ours live in ``robustalign.pipeline.launchers``."""

from robustalign.pipeline.launchers import LocalLauncher as _LocalLauncher


class LocalLauncher(_LocalLauncher):
    """``hydra/launcher=local``."""
