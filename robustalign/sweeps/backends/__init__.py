"""What starts the runs of a sweep. A backend is one module here with a class ``BACKEND``, and one yaml under
``conf/hydra/launcher`` whose ``backend`` names the module (``local``, or ``package.module`` of one's own)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from robustalign.errors import ConfigError

if TYPE_CHECKING:
    from robustalign.sweeps.backends.base import Backend


def load(name: str) -> type[Backend]:
    """The class of a backend; its fields are the keys of ``hydra.launcher``.

    Raises:
        ConfigError: there is no such module, or it has no class ``BACKEND``.
    """
    full = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name is None or not full.startswith(error.name):
            raise
        raise ConfigError("hydra.launcher.backend", f"no module {full!r}") from error
    if not hasattr(module, "BACKEND"):
        raise ConfigError("hydra.launcher.backend", f"module {full!r} has no class BACKEND")
    backend: type[Backend] = module.BACKEND
    return backend
