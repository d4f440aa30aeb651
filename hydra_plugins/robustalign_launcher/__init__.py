"""Hydra finds plugins in ``hydra_plugins`` only; ours live in ``robustalign.sweeps.hydra``."""

from robustalign.sweeps.hydra import ProductSweeper as _ProductSweeper
from robustalign.sweeps.hydra import SweepLauncher as _SweepLauncher


class SweepLauncher(_SweepLauncher):
    """``hydra/launcher=NAME``, with the backend that conf/hydra/launcher/NAME.yaml names."""


class ProductSweeper(_ProductSweeper):
    """``hydra/sweeper=product``."""
