"""A report: its tables, pictures and words, in one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robustalign.errors import ConfigError
from robustalign.report import measures, pictures, summary, tables
from robustalign.report.certify import certificates, certified
from robustalign.report.choose import Choice, choose, unequal_rules
from robustalign.report.compare import Claim, Comparison
from robustalign.report.costs import cost_of_robustness, costs_table, short_costs
from robustalign.report.html import Part, page
from robustalign.report.load import Run, load_runs
from robustalign.report.measures import Measures
from robustalign.report.pictures.training import HISTORIES
from robustalign.report.settings import Setting, settings
from robustalign.report.style import Look, drawing, save

CURVE_RUNS = 60  # runs whose training is drawn, at most
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
        "Above the worst loss within a radius of the nominal held-out pairs, beside the untrained reference and dpo's "
        "margins made smaller. Below the targets: each lies under the line, and how far is the price of not knowing "
        "its direction.",
    ),
    "radar": ("Radar", "Each spoke is a population of one objective."),
    "learning": ("Learning curves and weights", "Training, as each method saw its own batches."),
    "costs": ("Costs", "What a training step takes."),
}


def build(experiment: str, uri: str, output: Path, folder: Path, sweep: str | None = None, draws: int = 2000) -> str:
    """Write the report of an experiment into ``folder``, one folder below for each setting if there are several.

    Returns the words.

    Raises:
        ConfigError: no such experiment or sweep, or no run of it has finished.
    """
    runs, found = finished_settings(uri, experiment, output, sweep)
    told = []
    for setting in found:
        place = folder / setting.name.replace(" ", "_").replace("/", "_") if setting.name else folder
        told.append(_Report(setting, experiment, uri, place, draws).write())
    if len(told) > 1:
        _write(folder / "summary.md", "\n\n".join(told))
    _attach(uri, runs, folder, "\n\n".join(told))
    return "\n\n".join(told)


def finished_settings(uri: str, experiment: str, output: Path, sweep: str | None) -> tuple[list[Run], list[Setting]]:
    """All runs of an experiment, and the settings of those that have finished.

    Raises:
        ConfigError: no such experiment or sweep, or no run of it has finished.
    """
    runs = load_runs(uri, experiment, output, sweep)
    found = settings(runs)
    if not found:
        counts = Counter(run.status for run in runs)
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"
        key, where = ("experiment", "") if sweep is None else ("sweep", f" of sweep {sweep}")
        raise ConfigError(key, f"no finished run with results in {experiment!r}{where}; its runs: {states}")
    return runs, found


class _Report:
    """The report of one setting."""

    def __init__(self, setting: Setting, experiment: str, uri: str, folder: Path, draws: int) -> None:
        self.setting, self.folder, self.uri = setting, folder, uri
        self.title = summary.title(setting, experiment)
        self.measures = Measures(setting, draws)
        self.comparison = Comparison(self.measures) if setting.baseline else None
        self.look = Look(setting)

    def write(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.claims: list[Claim] = tables.claims(self.comparison) if self.comparison else []
        self.histories = self._histories()
        self.costs = costs_table(self.setting, self.histories)
        self.certificates = certificates(self.measures)
        self.warn_of_no_numbers()
        parts = [*self.tables(), *self.pictures()]
        text = summary.summary(self.measures, self.comparison, self.claims)
        details = summary.details(self.comparison, self.claims) if self.comparison else ""
        _write(self.folder / "summary.md", f"# {self.title}\n\n{text}\n{details}")
        _write(self.folder / "report.html", page(self.title, text, details, parts))
        return f"{self.title}\n\n{text}"

    def warn_of_no_numbers(self) -> None:
        """Name the runs with results that are no numbers: the means that they are part of stay empty."""
        for point in self.setting.points:
            for seed, run in sorted(point.runs.items()):
                told = run.targets[(run.targets["control"] == "policy") & run.targets["value"].isna()]
                if len(told):
                    which = ", ".join(sorted(set(told["metric"])))
                    warning = f"{point.label} with seed {seed} has no number for {which}: not averaged"
                    self.setting.warnings.append(warning)

    def tables(self) -> list[Part]:
        """Write the tables. Returns those that the page shows."""
        splits = [split for split in ("validation", "test") if self.measures.has_split(split)]
        long = tables.results(self.measures, self.comparison, splits)
        tables.write_csv(long, self.folder / "table.csv")
        parts: list[Part] = []
        texts: list[str] = []
        for metric in self.measures.metrics():
            table = self._with_costs(tables.main_table(self.measures, self.comparison, metric))
            better = "more" if measures.better(metric) > 0 else "less"
            caption = (
                f"{metric} ({better} is better): mean and 95 % interval, n seeds x prompts; differences are paired; "
            )
            caption += "cost of robustness: seconds a training step over dpo's, n seeds"
            parts.append(self._told(metric, table, caption, texts))
            _write(self.folder / f"table_{metric}.tex", tables.latex(table, caption))
        if self.comparison is not None:
            tables.write_csv(tables.claims_table(self.claims), self.folder / "comparisons.csv")
            tables.write_csv(tables.runs_against_runs(self.comparison), self.folder / "runs_against_runs.csv")
            parts += self._choices(texts)
        parts += self._certified(texts)
        tables.write_csv(self.costs, self.folder / "costs.csv")
        parts.append(self._told("costs", short_costs(self.costs), COSTS, texts))
        tables.write_csv(self.certificates, self.folder / "certificates.csv")
        _write(self.folder / "table.md", f"# {self.title}\n\n" + "\n".join(texts))
        return parts

    def _choices(self, texts: list[str]) -> list[Part]:
        assert self.comparison is not None
        if not self.measures.has_split("validation") or not self.setting.robust:
            return []
        made = choose(self.comparison, self.measures.metrics())
        self.setting.warnings += unequal_rules(made)
        tables.write_csv(pd.DataFrame([_flat(choice) for choice in made]), self.folder / "choices.csv")
        return [self._told("chosen without the test population", choices_table(made), CHOSEN, texts)]

    def _certified(self, texts: list[str]) -> list[Part]:
        table = certified(self.certificates, self.setting.baseline)
        if table.empty:
            return []
        _write(self.folder / "table_certificates.tex", tables.latex(table, CERTIFIED))
        return [self._told("certificates", table, CERTIFIED, texts)]

    def _told(self, heading: str, table: pd.DataFrame, caption: str, texts: list[str]) -> Part:
        """A table for the page, added to ``texts`` as markdown."""
        texts.append(f"## {heading}\n\n{caption}\n\n{tables.markdown(table)}\n")
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
            for name, figure in self._figures():
                if figure is not None:
                    kind, _, method = name.partition(" ")
                    heading, caption = CAPTIONS[kind]
                    path = save(figure, self.folder, name.replace(" ", "_"))
                    parts.append(Part(f"{heading} {method}".strip(), caption, picture=path))
        return parts

    def _figures(self) -> Iterator[tuple[str, Figure | None]]:
        measures, comparison, look = self.measures, self.comparison, self.look
        yield "curves", pictures.robustness_curves(measures, comparison, look)
        if comparison is not None:
            yield "trade_off_nominal", pictures.trade_off(comparison, look, "nominal")
            yield "trade_off_kl", pictures.trade_off(comparison, look, "kl")
            yield "gap_closed", pictures.gap_closed(self.claims, comparison, look)
            yield "heat_map", pictures.heat_map(comparison)
        for method, figure in pictures.radius_profiles(measures).items():
            yield f"profile {method}", figure
        yield "certificates", pictures.certificates(self.certificates, measures, look)
        yield "radar", pictures.radar(measures, look)
        yield "learning", pictures.learning_curves(self.setting, self.histories, look)
        yield "costs", pictures.costs(self.costs, self.setting)

    def _histories(self) -> pd.DataFrame:
        from robustalign.tracking.files import histories

        runs = [run.run_id for point in self.setting.points for _, run in sorted(point.runs.items())]
        return histories(self.uri, runs[:CURVE_RUNS], HISTORIES)


def choices_table(made: list[Choice]) -> pd.DataFrame:
    """The choices as text."""
    rows = []
    for choice in made:
        row = {"method": choice.method, "metric": choice.metric, "rule": choice.rule, "chosen": choice.chosen or "-"}
        same = choice.nominal is not None and choice.nominal.low == choice.nominal.high == 0
        for name in ("nominal", "worst"):
            row[name] = "dpo's own" if same else tables.text(getattr(choice, name), sign=True)
        row |= {"best in hindsight": choice.hindsight or "-", "short of it by": tables.text(choice.regret)}
        rows.append(row | {"of": str(choice.candidates), "why": choice.reason})
    return pd.DataFrame(rows)


def _flat(choice: Choice) -> dict[str, object]:
    row = {key: value for key, value in asdict(choice).items() if not isinstance(value, dict)}
    for name in ("nominal", "worst", "regret"):
        found = getattr(choice, name)
        row |= {name: found and found.value, f"{name}_low": found and found.low, f"{name}_high": found and found.high}
    return row


def _attach(uri: str, runs: list[Run], folder: Path, words: str) -> None:
    """Put the report into the parent run of every sweep that it covers."""
    from robustalign.tracking.files import attach_report

    for parent in sorted({run.parent for run in runs if run.parent}):
        attach_report(uri, parent, folder, words)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
