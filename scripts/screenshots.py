"""Pictures of the MLflow UI for the documentation, by a headless Chromium.

    python scripts/screenshots.py [experiment=demo] [compared=demo] [paths.output=outputs] [folder=docs/pictures]

``compared`` is the experiment on the page with parallel coordinates: a sweep over a radius shows most.
Needs Chromium (Debian: apt-get install chromium fonts-dejavu-core) and playwright (make test-browser installs it).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import read_keys
from robustalign.errors import ConfigError

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = {  # what else covers the page at the first visit
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}
PARAMS = ("method.name", "method.radius", "method.temperature")
METRICS = ("eval/test/nominal/accuracy", "eval/test/worst/accuracy", "eval/test/worst/loss")
DEFAULTS: dict[str, str | None] = {
    "experiment": "demo",
    "compared": None,
    "paths.output": "outputs",
    "tracking.uri": None,
    "folder": "docs/pictures",
}


def main() -> None:
    """Write one png for each page that the documentation shows."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], str(__doc__), DEFAULTS)
        output, folder = Path(str(keys["paths.output"])).absolute(), Path(str(keys["folder"]))
        if chromium() is None:
            raise ConfigError("chromium", f"is not installed; looked for {', '.join(CHROMIUM)}")
        folder.mkdir(parents=True, exist_ok=True)
        with served(keys.store(output)) as address, browsing(address) as ui:
            for path in take(ui, str(keys["experiment"]), str(keys["compared"] or keys["experiment"]), folder):
                print(path)


def chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextlib.contextmanager
def served(uri: str, patience: float = 120.0) -> Iterator[str]:
    """An MLflow server on a free port of this machine, for the length of a block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=os.environ | quick,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + patience
        while not _answers(f"{address}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the MLflow server did not start (exit code {server.poll()})")
            time.sleep(0.5)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


@contextlib.contextmanager
def browsing(address: str, stored: Mapping[str, str] = QUIET) -> Iterator[Pages]:
    """The UI in a headless Chromium that remembers ``stored`` of earlier visits."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            store = "".join(f"localStorage.setItem({json.dumps(k)}, {json.dumps(v)});" for k, v in stored.items())
            page.add_init_script(store)
            page.set_default_timeout(30_000)
            yield Pages(page, address)
        finally:
            browser.close()


class Pages:
    """The pages of the UI that compare runs."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address, self._visits = page, address, 0

    def open(self, route: str) -> Any:
        """Go to ``route`` (what follows the ``#``), loading the page anew."""
        self._visits += 1
        self.page.goto(f"{self.address}/?visit={self._visits}#{route}")
        return self.page

    def ask(self, path: str, **query: Any) -> Any:
        """What the server's REST interface answers."""
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}",
            data=json.dumps(query).encode(),
            headers={"Content-Type": "application/json"},
        )
        return json.load(urllib.request.urlopen(request, timeout=30))

    def experiment(self, name: str) -> str:
        """The id of an experiment."""
        found = self.ask("experiments/search", max_results=100, filter=f"name = '{name}'").get("experiments", [])
        if not found:
            raise ConfigError("experiment", f"no experiment {name!r} in the store")
        return str(found[0]["experiment_id"])

    def runs(self, experiment: str, kind: str = "run") -> list[str]:
        """The ids of an experiment's runs; of its sweeps with ``kind="sweep"``."""
        wanted = f"tags.`robustalign.kind` = '{kind}'"
        found = self.ask("runs/search", experiment_ids=[experiment], max_results=1000, filter=wanted)
        return [run["info"]["run_id"] for run in found.get("runs", [])]

    def table(self, experiment: str) -> Any:
        """The table of runs as it opens: sweeps collapsed."""
        page = self.open(f"/experiments/{experiment}/runs")
        page.get_by_role("link", name="sweep of").first.wait_for()
        return page

    def expand(self) -> Any:
        """Unfold the sweep that is on top of the table."""
        self.page.locator("[role=gridcell]", has_text="sweep of").first.get_by_role("button").first.click()
        self.page.get_by_role("link", name="seed=").first.wait_for()
        return self.page

    def toggle(self, *columns: str) -> Any:
        """Show columns of the table, or hide those that are shown."""
        self.page.get_by_role("button", name="Columns").click()
        for column in columns:
            self.page.get_by_placeholder("Search columns").fill(column)
            self.page.get_by_text(column, exact=True).last.click()
        self.page.keyboard.press("Escape")
        return self.page

    def group(self, by: str) -> Any:
        """Group the table by a tag or a param."""
        self.page.get_by_role("button", name="Group by").click()
        self.page.get_by_text(by, exact=True).last.click()
        self.page.get_by_text("Group: ").first.wait_for()
        return self.page

    def charts(self, experiment: str, names: str) -> Any:
        """The charts of what the table shows, those whose metric's name holds ``names``."""
        page = self.open(f"/experiments/{experiment}/runs?compareRunsMode=CHART")
        page.get_by_placeholder("Search metric charts").fill(names)
        page.locator(".js-plotly-plot").first.wait_for()
        return page

    def compare(self, experiment: str, params: Sequence[str], metrics: Sequence[str]) -> Any:
        """The page that compares an experiment's runs, by parallel coordinates over these params and metrics."""
        runs, experiments = quote(json.dumps(self.runs(experiment))), quote(json.dumps([experiment]))
        page = self.open(f"/compare-runs?runs={runs}&experiments={experiments}")
        page.get_by_text("Parallel Coordinates Plot").wait_for()
        page.get_by_role("button", name="Clear All").click()
        for box, names in zip(page.locator(".du-bois-light-select-selector").all(), (params, metrics), strict=True):
            box.click()
            for name in names:
                page.keyboard.type(name)
                page.locator(".du-bois-light-select-item-option", has_text=name).first.click()
            page.keyboard.press("Escape")
        page.locator("svg .y-axis, .js-plotly-plot").first.wait_for()
        return page

    def sweep(self, experiment: str) -> Any:
        """The page of an experiment's latest sweep, its description unfolded."""
        page = self.open(f"/experiments/{experiment}/runs/{self.runs(experiment, 'sweep')[0]}")
        page.get_by_role("link", name="Compare its").wait_for()
        if page.get_by_text("Show more").count():
            page.get_by_text("Show more").first.click()
        return page


def take(ui: Pages, name: str, compared: str, folder: Path) -> Iterator[Path]:
    """Write the pictures one after the other."""
    experiment = ui.experiment(name)
    ui.table(experiment)
    ui.expand()
    ui.toggle("Dataset", "Source", "Models", *PARAMS, *METRICS)
    yield _save(ui, folder, "ui_runs")
    ui.group("robustalign.method")
    ui.charts(experiment, "train/rewards")
    yield _save(ui, folder, "ui_groups")
    ui.compare(ui.experiment(compared), PARAMS[:2], METRICS)
    yield _save(ui, folder, "ui_compare")
    ui.sweep(experiment)
    yield _save(ui, folder, "ui_sweep")


def _save(ui: Pages, folder: Path, name: str) -> Path:
    from PIL import Image

    path = folder / f"{name}.png"
    ui.page.wait_for_timeout(2500)  # lines and tables are drawn after they are there
    picture = Image.open(BytesIO(ui.page.screenshot()))
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


if __name__ == "__main__":
    main()
