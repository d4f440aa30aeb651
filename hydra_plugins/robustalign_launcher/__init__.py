"""Hydra finds plugins in ``hydra_plugins`` only; ours live in ``robustalign.pipeline.launchers``."""

from robustalign.pipeline.launchers import LocalLauncher as _LocalLauncher
from robustalign.pipeline.launchers import ProductSweeper as _ProductSweeper
from robustalign.pipeline.launchers import SlurmLauncher as _SlurmLauncher


class LocalLauncher(_LocalLauncher):
    """``hydra/launcher=local``."""


class SlurmLauncher(_SlurmLauncher):
    """``hydra/launcher=slurm``."""


class ProductSweeper(_ProductSweeper):
    """``hydra/sweeper=product``."""
