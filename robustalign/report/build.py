"""A report: its tables, pictures and words, in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robustalign.errors import ConfigError
from robustalign.evaluation.controls import TRAINED
from robustalign.evaluation.run_away import ran_away
from robustalign.report import benchmarks, groups, people, pictures, summary, tables
from robustalign.report.certify import certificates, certified
from robustalign.report.choose import choices_csv, choices_table, choose, unequal_rules
from robustalign.report.claims import Claim
from robustalign.report.compare import Comparison
from robustalign.report.costs import cost_of_robustness, costs_table, short_costs
from robustalign.report.headline import headline
from robustalign.report.html import Part, page
from robustalign.report.load import Run, load_runs
from robustalign.report.markup import in_file_names, in_markdown, latex_table, markdown_table
from robustalign.report.measures import Measures
from robustalign.report.pictures.training import HISTORIES
from robustalign.report.settings import Setting, settings
from robustalign.report.style import Look, drawing, save, undrawable

CURVE_RUNS = 60  # runs whose training is drawn and timed, at most: every point's first seed, then its second, ...
BEYOND = "A method is robust beyond a smaller step from the reference only above the black curves."
CHOSEN = (
    "what each rule chose by validation prompts, its test values as differences to dpo (more is better), and how much "
    "better the best in hindsight is in the worst case"
)
CERTIFIED = (
    "worst loss (nats, less is better) over all re-weightings of the nominal held-out pairs within a KL radius (nats); "
    "95 % intervals over seeds and prompts, n seeds x pairs"
)
COSTS = "means with 95 % intervals over seeds; stages include what they wait for, and runs may have shared the machine"
CAPTIONS = {  # heading and caption of each picture
    "curves": (
        "Robustness curves",
        "Every target population, by its distance from the one that labelled the training pairs.",
    ),
    "trade_off_nominal": ("Worst case, at matched nominal value", BEYOND),
    "trade_off_kl": ("Worst case, at matched KL from the reference", BEYOND),
    "gap_closed": ("Gap closed", "How much of the way to a policy that knows the worst target's people."),
    "heat_map": ("Trained at, evaluated at", "Rows are trained policies, columns the populations they are tested on."),
    "profile": ("Strength of", "Test values; a radius is chosen by validation prompts only."),
    "certificates": (
        "Certificate against realised loss",
        "Above the worst loss within a radius of the nominal held-out pairs. A policy is certified to be better than a "
        "smaller step only below the untrained reference and below dpo's margins made smaller, where dpo was run. "
        "Below how much more the certificate allows than the loss at each target, which is never less than 0: the "
        "price of not knowing the target's direction.",
    ),
    "radar": ("Radar", "Each spoke is a population of one objective."),
    "reliability": ("Reliability", "A policy that knows how sure it can be lies on the grey line."),
    "learning": ("Learning curves and weights", "Training, as each method saw its own batches."),
    "costs": ("Costs", "What a training step takes."),
}


def build(experiment: str, uri: str, output: Path, folder: Path, sweep: str | None = None, draws: int = 2000) -> str:
    """Write the report of an experiment into ``folder``, one folder below for each setting if there are several.

    Returns the words, as markdown.

    Raises:
        ConfigError: no such experiment or sweep, or no run of it has finished.
    """
    runs, finished = finished_settings(uri, experiment, output, sweep)
    places = in_file_names([setting.name for setting in finished]) if len(finished) > 1 else ["."]
    reports = [
        SettingReport(setting, experiment, uri, folder / place, draws)
        for setting, place in zip(finished, places, strict=True)
    ]
    words = "\n\n".join([report.write() for report in reports])
    if len(reports) > 1:
        _write(folder / "summary.md", words)
    _attach(uri, runs, folder, words)
    return words


def finished_settings(uri: str, experiment: str, output: Path, sweep: str | None) -> tuple[list[Run], list[Setting]]:
    """All runs of an experiment, and the settings of those that have finished.

    Raises:
        ConfigError: no such experiment or sweep, or no run of it has finished.
    """
    runs = load_runs(uri, experiment, output, sweep)
    finished = settings(runs)
    if not finished:
        counts = Counter(run.status for run in runs)
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
        key, where = ("experiment", "") if sweep is None else ("sweep", f" of sweep {sweep}")
        raise ConfigError(key, f"no finished run with results in {experiment!r}{where}; its runs: {states}")
    return runs, finished


class SettingReport:
    """The report of one setting."""

    def __init__(self, setting: Setting, experiment: str, uri: str, folder: Path, draws: int) -> None:
        self.setting, self.folder, self.uri = setting, folder, uri
        self.title = summary.title(setting, experiment)
        self.measures = Measures(setting, draws)
        self.comparison = Comparison(self.measures) if setting.baseline else None
        self.look = Look(setting)

    def write(self) -> str:
        """Write every file. Returns the words, as markdown."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claims: list[Claim] = tables.claims_of(self.comparison) if self.comparison else []
        self.histories = self._histories()
        self.costs = costs_table(self.setting, self.histories)
        self.certificates = certificates(self.measures)
        self.warn()
        parts = [*self.tables(), *self.pictures()]
        text = summary.summary(self.measures, self.comparison, self.claims) + groups.paragraph(self.setting)
        text += people.paragraph(self.setting, [metric.name for metric in self.measures.metrics()])
        details = summary.details(self.comparison, self.claims) if self.comparison else ""
        _write(self.folder / "summary.md", f"# {in_markdown(self.title)}\n\n{text}\n{details}")
        _write(self.folder / "report.html", page(self.title, text, details, parts))
        if self.claims:
            _write(self.folder / "headline.md", markdown_table(headline(self.setting, self.claims)) + "\n")
        return f"{in_markdown(self.title)}\n\n{text}"

    def warn(self) -> None:
        """Name the runs that ran away or whose results are not numbers, and metrics that this version lacks."""
        for point in self.setting.points:
            broken: dict[str, list[str]] = {}
            for seed, run in sorted(point.runs.items()):
                rows = run.targets[(run.targets["control"] == str(TRAINED)) & run.targets["value"].isna()]
                if len(rows):
                    broken.setdefault(", ".join(sorted(set(rows["metric"]))), []).append(str(seed))
            for seed, run in sorted(point.runs.items()):
                if far := ran_away(run.targets, run.config.get("evaluation", {}).get("max_kl")):
                    away = f"{point.label} with seed {seed} ran away: KL {far:.3g} nats a reply from the reference"
                    self.setting.warnings.append(away)
            for metrics, seeds in broken.items():
                gap = f"{point.label} with seed {', '.join(seeds)} has no number for {metrics}"
                self.setting.warnings.append(f"{gap}: its means are not numbers")
        if unknown := self.measures.unknown_metrics():
            self.setting.warnings.append(f"no metric of this version is called {', '.join(unknown)}: left out")
        if lacking := undrawable("".join([*(point.label for point in self.setting.points), *self.measures.targets()])):
            self.setting.warnings.append(f"no installed font has {lacking}: boxes in .png pictures, right in .svg")

    def tables(self) -> list[Part]:
        """Write the tables. Returns those that the page shows."""
        splits = [split for split in ("validation", "test") if self.measures.has_split(split)]
        long = tables.results(self.measures, self.comparison, splits)
        tables.write_csv(long, self.folder / "table.csv")
        parts: list[Part] = []
        texts: list[str] = []
        for metric in self.measures.metrics():
            table = self._with_costs(tables.main_table(self.measures, self.comparison, metric))
            caption = (
                f"{metric} ({metric.direction}): mean and 95 % interval, n seeds x prompts; differences are paired; "
                "cost of robustness: seconds a training step over dpo's, n seeds"
            )
            parts.append(self._part(metric.name, table, caption, texts))
            _write(self.folder / f"table_{metric}.tex", latex_table(table, caption))
        if self.comparison is not None:
            tables.write_csv(tables.claims_table(self.claims), self.folder / "comparisons.csv")
            tables.write_csv(tables.runs_against_runs(self.comparison), self.folder / "runs_against_runs.csv")
            parts += self._choices(texts)
        parts += self._certified(texts)
        if len(table := people.people_table(self.setting)):
            parts.append(self._part("people", table, people.CAPTION, texts))
        if len(table := benchmarks.benchmark_table(self.setting)):
            parts.append(self._part("benchmarks", table, benchmarks.CAPTION, texts))
        tables.write_csv(self.costs, self.folder / "costs.csv")
        parts.append(self._part("costs", short_costs(self.costs), COSTS, texts))
        tables.write_csv(self.certificates, self.folder / "certificates.csv")
        _write(self.folder / "table.md", f"# {in_markdown(self.title)}\n\n" + "\n".join(texts))
        return parts

    def _choices(self, texts: list[str]) -> list[Part]:
        assert self.comparison is not None
        if self.setting.split != "test" or not self.measures.has_split("validation") or not self.setting.robust:
            return []
        choices = choose(self.comparison, self.measures.metrics())
        self.setting.warnings += unequal_rules(choices)
        tables.write_csv(choices_csv(choices), self.folder / "choices.csv")
        return [self._part("chosen without the test population", choices_table(choices), CHOSEN, texts)]

    def _certified(self, texts: list[str]) -> list[Part]:
        table = certified(self.certificates, self.setting)
        if table.empty:
            return []
        _write(self.folder / "table_certificates.tex", latex_table(table, CERTIFIED))
        return [self._part("certificates", table, CERTIFIED, texts)]

    def _part(self, heading: str, table: pd.DataFrame, caption: str, texts: list[str]) -> Part:
        """A table for the page, added to ``texts`` as markdown."""
        texts.append(f"## {heading}\n\n{caption}\n\n{markdown_table(table)}\n")
        return Part(heading, caption, table=table)

    def _with_costs(self, table: pd.DataFrame) -> pd.DataFrame:
        """With the column 'cost of robustness' before the last one."""
        if cost := cost_of_robustness(self.costs):
            table.insert(len(table.columns) - 1, "cost of robustness", [cost[label] for label in table["point"]])
        return table

    def pictures(self) -> list[Part]:
        """Draw the pictures. Returns the parts of the page."""
        parts = []
        with drawing():
            figures = [(kind, method, figure) for kind, method, figure in self._figures() if figure is not None]
            names = in_file_names([f"{kind}_{method}" if method else kind for kind, method, _ in figures])
            for name, (kind, method, figure) in zip(names, figures, strict=True):
                heading, caption = CAPTIONS[kind]
                parts.append(Part(f"{heading} {method}".strip(), caption, picture=save(figure, self.folder, name)))
        return parts

    def _figures(self) -> Iterator[tuple[str, str, Figure | None]]:
        """Kind, method (of those that are drawn for each) and figure; None where there is nothing to draw."""
        measures, comparison, look = self.measures, self.comparison, self.look
        yield "curves", "", pictures.robustness_curves(measures, comparison, look)
        if comparison is not None:
            yield "trade_off_nominal", "", pictures.trade_off(comparison, look, "nominal")
            yield "trade_off_kl", "", pictures.trade_off(comparison, look, "kl")
            yield "gap_closed", "", pictures.gap_closed(self.claims, comparison, look)
            yield "heat_map", "", pictures.heat_map(comparison)
        for method, figure in pictures.profiles(measures).items():
            yield "profile", method, figure
        yield "certificates", "", pictures.certificates(self.certificates, measures, look)
        yield "radar", "", pictures.radar(measures, look)
        yield "reliability", "", pictures.reliability_diagram(self.setting, look)
        yield "learning", "", pictures.learning_curves(self.setting, self.histories, look)
        yield "costs", "", pictures.costs(self.costs, self.setting)

    def _histories(self) -> pd.DataFrame:
        from robustalign.tracking.files import histories

        by_seed = zip_longest(*([point.runs[s].run_id for s in point.seeds] for point in self.setting.points))
        runs = [run for of_a_seed in by_seed for run in of_a_seed if run is not None]
        return histories(self.uri, runs[:CURVE_RUNS], HISTORIES)


def _attach(uri: str, runs: list[Run], folder: Path, words: str) -> None:
    """Put the report into the parent run of every sweep that it covers."""
    from robustalign.tracking.files import attach_report

    for parent in sorted({run.parent for run in runs if run.parent}):
        attach_report(uri, parent, folder, words)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
