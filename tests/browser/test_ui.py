"""What a person finds in the MLflow UI: names, metrics, groups, and the page that compares runs over the radius."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustalign.report.build import build
from robustalign.sweeps.mlflow_sync import SweepImporter
from scripts.screenshots import PARAMS, Pages, browsing, chromium, served
from tests.report.conftest import make
from tests.report.synthetic import Scene

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
WORST = "eval/test/worst/accuracy"


@pytest.fixture(scope="module")
def sweep_importer(tmp_path_factory) -> SweepImporter:
    """A store with one finished sweep of ten runs and its report."""
    output = tmp_path_factory.mktemp("outputs")
    sweep = make(output, ("dpo", "kldpo_t0.5", "wdpo_r0.03", "wdpo_r0.1", "oracle"), (0, 1), scene=Scene(prompts=60))
    sweep_importer = SweepImporter(sweep)
    sweep_importer.close()
    build("demo", sweep_importer.uri, output, output / "reports", draws=100)
    return sweep_importer


@pytest.fixture(scope="module")
def ui(sweep_importer) -> Iterator[Pages]:
    pytest.importorskip("playwright", reason="playwright is not installed: make test-browser installs it")
    if chromium() is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium fonts-dejavu-core")
    with served(sweep_importer.uri) as address, browsing(address) as pages:
        yield pages


@pytest.fixture
def experiment(ui) -> str:
    return ui.experiment("demo")


def expect(found) -> None:
    found.first.wait_for()


def test_runs_lie_below_their_sweep_with_their_metrics(ui, sweep_importer, experiment):
    page = ui.table(experiment)
    assert page.get_by_role("link", name="kldpo tau=0.5 seed=0").count() == 0
    ui.expand()
    names = {run.name for run in sweep_importer.sweep.runs}
    assert len(names) == 10
    for name in names:
        expect(page.get_by_role("link", name=name, exact=True))
    ui.toggle("Dataset", "Source", "Models", "method.radius", WORST)
    run = sweep_importer.importer.client.get_run(next(iter(sweep_importer.ids.values())))
    expect(page.get_by_text(f"{run.data.metrics[WORST]:.6f}"[:-1]))
    expect(page.get_by_role("gridcell", name="0.03"))


def test_a_group_is_a_method_and_its_charts_hold_every_member(ui, experiment):
    page = ui.table(experiment)
    ui.group("robustalign.method")
    for method, runs in (("dpo", 2), ("kldpo", 2), ("wdpo", 4), ("oracle", 2)):
        row = page.locator("[role=gridcell]", has_text=re.compile(rf"Group: {method} ?{runs}$"))
        expect(row)
    ui.charts(experiment, "train/rewards/margins")
    expect(page.get_by_text("kldpo (train/rewards/margins)"))


def test_parallel_coordinates_run_over_the_radius(ui, experiment):
    page = ui.compare(experiment, PARAMS[:2], [WORST])
    expect(page.get_by_text("Comparing 10 Runs from 1 Experiment"))
    drawn = page.locator(".js-plotly-plot svg")
    for axis in ("method.name", "method.radius", WORST):
        expect(drawn.get_by_text(axis, exact=True))
    expect(drawn.get_by_text("0.10000").or_(drawn.get_by_text("0.1", exact=True)))


def test_the_link_at_the_end_of_a_sweep_opens_that_page(ui, sweep_importer):
    page = ui.open(sweep_importer.link().removeprefix("/#"))
    expect(page.get_by_text("Comparing 10 Runs from 1 Experiment"))


def test_the_sweep_says_how_it_was_made_and_what_was_found(ui, experiment):
    page = ui.sweep(experiment)
    expect(page.get_by_text("train.py -m experiment=demo"))
    expect(page.get_by_text("fewer than 5 seeds"))
    address = page.get_by_role("link", name="Compare its 10 runs").first.get_attribute("href")
    ui.open(address.removeprefix("/#"))
    expect(page.get_by_text("Comparing 10 Runs from 1 Experiment"))


def test_the_report_opens_below_the_sweep(ui, sweep_importer, experiment):
    page = ui.open(f"/experiments/{experiment}/runs/{sweep_importer.parent}/artifacts")
    page.get_by_text("report", exact=True).first.click()
    expect(page.get_by_text("report.html"))
    assert (
        Path(sweep_importer.sweep.output) / "mlartifacts" / str(sweep_importer.parent) / "artifacts" / "report"
    ).is_dir()


def test_a_browser_that_is_new_to_mlflow_lands_where_the_printed_links_say(sweep_importer):
    with served(sweep_importer.uri) as address, browsing(address, stored={}) as new:
        page = new.open(sweep_importer.table().removeprefix("/#"))
        expect(page.get_by_role("link", name="sweep of"))
        expect(page.get_by_text("Model registry"))  # the menu for training, not the one for chats
        page = new.open(sweep_importer.link().removeprefix("/#"))
        expect(page.get_by_text("Comparing 10 Runs from 1 Experiment"))
