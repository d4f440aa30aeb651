"""Hydra finds plugins in ``hydra_plugins`` only; ours live in ``robustalign.sweeps.hydra``."""

from robustalign.sweeps.hydra import LocalLauncher as _LocalLauncher
from robustalign.sweeps.hydra import ProductSweeper as _ProductSweeper
from robustalign.sweeps.hydra import SlurmLauncher as _SlurmLauncher


class LocalLauncher(_LocalLauncher):
    """``hydra/launcher=local``."""


class SlurmLauncher(_SlurmLauncher):
    """``hydra/launcher=slurm``."""


class ProductSweeper(_ProductSweeper):
    """``hydra/sweeper=product``."""
