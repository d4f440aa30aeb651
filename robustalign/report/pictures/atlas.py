"""The atlas as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from robustalign.report.style import drawing, note, panels, save, signed_map


def draw_atlas(cells: pd.DataFrame, folder: Path) -> Path:
    """Gain beyond dpo at the same distance from the reference, shifts by methods; hatched where the corrected test
    leaves zero in. Returns the png."""
    shifts, methods = list(dict.fromkeys(cells["shift"])), list(dict.fromkeys(cells["method"]))
    at = cells.set_index(["shift", "method"])
    values = np.array([[at.loc[(shift, method), "beyond"] for method in methods] for shift in shifts], float)
    signs = np.array([[at.loc[(shift, method), "sign"] for method in methods] for shift in shifts], int)
    with drawing():
        figure, ((panel,),) = panels(1, width=0.62 * len(methods) + 3.4, height=0.32 * len(shifts) + 1.6)
        bound = float(np.abs(values).max()) or 1.0
        image = signed_map(panel, values, bound, unsure=signs == 0)
        panel.set_xticks(range(len(methods)), methods, rotation=40, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(shifts)), shifts)
        figure.colorbar(image, ax=panel, label="worst target, beyond dpo at the same KL")
        seeds = int(cells["seeds"].min())
        note(figure, f"{seeds} seeds a shift; hatched: not shown after Holm's correction for {len(cells)} cells")
        return save(figure, folder, "atlas")
