"""A run, as a straight line: candidates, pairs, training, evaluation under every target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from robustalign.config import Config
from robustalign.data.pairs import TrainingRows
from robustalign.evaluation.controls import REFERENCE, TRAINED, Control, Kind, at_step, shrunk
from robustalign.evaluation.harness import command
from robustalign.evaluation.run_away import ran_away
from robustalign.evaluation.targets import Cells, evaluate_targets, per_prompt
from robustalign.files import replacing
from robustalign.pipeline import benchmarks, inputs, lineage
from robustalign.pipeline.account import tell_pairs, tell_splits
from robustalign.pipeline.between_steps import Steps
from robustalign.pipeline.held_out import HeldOut
from robustalign.pipeline.model_card import write_card
from robustalign.pipeline.people import all_splits
from robustalign.pipeline.populations import distances, groups, input_embeddings
from robustalign.pipeline.process import prepare_process
from robustalign.pipeline.stages import Stages, device
from robustalign.pipeline.training_rows import Prepared, prepare
from robustalign.pipeline.usage import Usage
from robustalign.policies.load import with_adapters
from robustalign.policies.save import load_trained, save_trained
from robustalign.run.folder import RunFolder, Stopped
from robustalign.run.journal import Journal
from robustalign.shifts.columns import ColumnShift
from robustalign.training import checkpoints, distributed, sharded
from robustalign.training.objective import Objective, build_objective
from robustalign.training.trainer import PairTrainer

TABLE = "targets.csv"  # in results/: all targets under all controls
POPULATIONS = "populations.json"  # in results/: shares and coordinates of the populations


def warm(config: Config) -> None:
    """Build the artefacts that the runs of a sweep share."""
    prepare_process(config)
    Stages(config).warm()


def run(config: Config, folder: RunFolder, journal: Journal, should_stop: Callable[[], bool]) -> None:
    """Run a config from its candidates to its results, continuing where an earlier attempt was stopped.

    Several ranks train together; rank 0 does everything else, and alone writes.

    Raises:
        Stopped: ``should_stop()`` became true; a checkpoint was saved.
        ConfigError: the data cannot serve the config.
    """
    prepare_process(config)
    objective = build_objective(config.method, config.trainer.batch_size)
    Computation(config, objective, folder, journal, should_stop).run()


class Computation:
    """The state of one run."""

    def __init__(
        self,
        config: Config,
        objective: Objective,
        folder: RunFolder,
        journal: Journal,
        should_stop: Callable[[], bool],
    ) -> None:
        self.config, self.objective, self.folder, self.journal = config, objective, folder, journal
        self.should_stop = should_stop
        self.stages = Stages(config)
        self.usage = Usage(quiet=distributed.rank() > 0)

    def run(self) -> None:
        """Every stage, then no more files than asked for; a kill in between costs no result."""
        if not (self.folder.results / TABLE).is_file():
            self.compute()
        if distributed.rank() == 0:
            self.clean()

    def compute(self) -> None:
        """From candidates to the table of all targets."""
        with self.usage.stage("prepare"):
            self.stages.sample_in_shares()
            with distributed.leader_first():
                row_counts = self.prepare()
        if distributed.rank() == 0:
            self.journal.metrics(0, row_counts | lineage.record_stages(self.stages, self.journal))
            self.report_shift()
            if self.prepared:
                self.report_pairs(self.prepared)
        self.stop_if_asked()
        policy = (
            self.trained_policy(self.prepared.rows)
            if self.prepared
            else self.stages.policy(self.objective.policy or "")
        )
        if distributed.rank() > 0:
            return
        distributed.leave()
        self.stop_if_asked()
        with self.usage.stage("evaluate"):
            ratios = self.evaluate(policy, self.config.trainer.steps, final=True)
        self.stop_if_asked()
        with self.usage.stage("controls"):
            self.evaluate_controls(policy, ratios)
        if self.config.evaluation.harness.tasks:
            with self.usage.stage("benchmarks"):
                self.record_benchmarks(policy)
        self.finish()

    def prepare(self) -> dict[str, float]:
        """What training and evaluation start from; on rank 0 the counts of rows, by metric."""
        row_counts = tell_splits(self.stages) if distributed.rank() == 0 else {}
        trains = self.objective.policy is None
        self.train_candidates = self.stages.candidates("train") if trains else self.stages.unscored("train")
        self.shift = self.stages.shift
        self.held_out = {
            split: HeldOut(self.stages, split, self.objective.beta) for split in self.config.evaluation.splits
        }
        self.prepared = prepare(self.stages, self.objective, self.train_candidates) if trains else None
        self.objective = self.prepared.objective if self.prepared else self.objective
        return row_counts

    def stop_if_asked(self) -> None:
        """Stop all ranks between two stages, if one of them was asked to; within training :class:`Steps` does it."""
        if distributed.anywhere(self.should_stop()):
            raise Stopped

    def report_shift(self) -> None:
        """Record the held-out prompts, and how far each target is from the nominal population."""
        config = self.config
        for split, held_out in self.held_out.items():
            folder = self.stages.candidates_folder(split)
            self.journal.dataset(f"{split}_candidates", folder.name, split, len(held_out.candidates))
        candidates = {"train": self.train_candidates} | {
            s: held_out.candidates for s, held_out in self.held_out.items()
        }
        embeddings = input_embeddings(self.stages.reference)
        confidence = config.evaluation.confidence
        table = distances(self.shift, candidates, config.dataset.pairs, embeddings, confidence)
        self.save_table(table, "shift.csv")
        if isinstance(self.shift, ColumnShift):
            self.save_table(groups(self.shift), "people_groups.csv")
        (self.folder.results / POPULATIONS).write_text(json.dumps(self.shift.record(), indent=1) + "\n")
        self.journal.artifact(f"{self.folder.results.name}/{POPULATIONS}")

    def report_pairs(self, prepared: Prepared) -> None:
        """Record the training pairs, who labelled them, and the evidence for their groups."""
        rows, pairs = prepared.rows, prepared.rows.pairs
        tell_pairs(rows, self.stages.tokenizer)
        shares = np.bincount(pairs.annotator, minlength=len(self.shift.components)) / len(pairs)
        self.journal.dataset("training_pairs", rows.fingerprint, "train", len(pairs))
        counts = {f"data/dropped/{reason.replace(' ', '_')}": float(n) for reason, n in pairs.dropped.items()}
        counts |= {"data/pairs": float(len(pairs)), "data/epochs": rows.epochs}
        counts["data/steps"] = float(self.config.trainer.steps)
        counts |= {f"data/share/{c.name}": float(s) for c, s in zip(self.shift.components, shares, strict=True)}
        self.journal.metrics(0, counts)
        if self.config.groups["method"] != "none":
            self.report_groups(prepared)

    def report_groups(self, prepared: Prepared) -> None:
        """Record the evidence for the groups, and pairs of each to read."""
        groups = prepared.groups
        for name in prepared.stage.save(groups, self.folder.results):
            self.journal.artifact(f"{self.folder.results.name}/{name}")
        self.journal.metrics(0, groups.metrics())
        self.journal.tags({"groups": groups.evidence.sentence})

    def trained_policy(self, rows: TrainingRows) -> PreTrainedModel:
        """The policy after training; a finished training is loaded, an interrupted one continued."""
        config = self.config
        policy = with_adapters(self.stages.new_model(), config.model, config.seed)
        marker = self.folder.model / "trained"
        if marker.is_file():
            load_trained(policy, self.folder.model)
            return policy
        if 0 in config.evaluation.steps and distributed.rank() == 0:
            self.evaluate(policy, 0)
        trainer = PairTrainer(
            policy,
            rows,
            self.objective,
            config.trainer,
            pad=self.stages.tokenizer.pad_token_id,
            seed=config.seed,
            output=self.folder.checkpoints,
            log=self.journal.metrics,
            before_save=self.journal.sync,
            gradient_checkpointing=config.model.gradient_checkpointing,
            after_step=Steps(self.folder, config, self.evaluate_between, self.should_stop, policy),
        )
        saved = checkpoints.complete(self.folder.checkpoints)
        with self.usage.stage("train"):
            trainer.train(saved[-1] if saved else None)
        self.usage.seconds["train"] = trainer.seconds
        if trainer.step < config.trainer.steps:
            raise Stopped(f"stopped at step {trainer.step}")
        policy = self.in_one_piece(policy)
        if distributed.rank() == 0:
            save_trained(policy, self.folder.model)
            marker.touch()
        return policy

    def evaluate_between(self, policy: PreTrainedModel, step: int) -> None:
        """Evaluate in the middle of training; all ranks take part, the first measures."""
        whole = self.in_one_piece(policy)
        if distributed.rank() == 0:
            with self.usage.stage(f"evaluate_{step}"):
                self.evaluate(whole, step)

    def in_one_piece(self, policy: PreTrainedModel) -> PreTrainedModel:
        """On rank 0 the policy that the ranks train, its parameters gathered where they are spread; all take part."""
        if self.config.trainer.parallel != "fsdp" or distributed.world() == 1:
            return policy
        values = sharded.whole(policy)
        if distributed.rank() == 0:
            policy = with_adapters(self.stages.new_model(), self.config.model, self.config.seed)
            policy.load_state_dict(values, strict=False)
        return policy

    def evaluate(self, policy: PreTrainedModel, step: int, final: bool = False) -> dict[str, np.ndarray]:
        """Every target's metrics on every split, to the journal and to ``results/``; the log-ratios of each split."""
        generate = self.config.evaluation.generate
        certificates: list[pd.DataFrame] = []
        logratios: dict[str, np.ndarray] = {}
        control = at_step(step, self.config.trainer.steps)
        policy.eval()
        for split, held_out in self.held_out.items():
            logratios[split] = ratios = held_out.logratios(policy)
            cells = held_out.cells(ratios)
            if generate == "always" or (final and generate == "end"):
                cells |= held_out.generated(policy, self.config.seed)
            self.record(control, split, cells)
            if final:
                certificates.append(held_out.certificates(ratios))
        if final:
            self.save_table(pd.concat(certificates, ignore_index=True), "certificates.csv")
            self.record_people(logratios)
        if final and generate != "never":
            self.save_table(pd.concat([held_out.sample() for held_out in self.held_out.values()]), "replies.csv")
        return logratios

    def record_people(self, logratios: Mapping[str, np.ndarray]) -> None:
        """What is told of the people who chose: ``people.csv``, and ``reliability.csv`` with the calibration's bins."""
        of_splits = {split: held_out.people for split, held_out in self.held_out.items() if held_out.people is not None}
        if not of_splits:
            return
        step = self.config.trainer.steps
        table, reliability = all_splits(of_splits, logratios, self.objective.beta, step)
        self.save_table(table, "people.csv")
        self.save_table(reliability, "reliability.csv")
        values = zip(table["split"], table["target"], table["metric"], table["value"], strict=True)
        self.journal.metrics(step, {f"eval/{s}/{t}/{m}": float(v) for s, t, m, v in values if np.isfinite(v)})

    def evaluate_controls(self, policy: PreTrainedModel, logratios: Mapping[str, np.ndarray]) -> None:
        """The untrained reference, and the policy, of known log-ratios on each split, shrunk towards it."""
        evaluation = self.config.evaluation
        for split, held_out in self.held_out.items():
            self.record(REFERENCE, split, held_out.reference_cells())
            for factor in evaluation.shrinkage:
                cells = held_out.cells(logratios[split], shrink=factor)
                if evaluation.generate != "never":
                    cells |= held_out.generated(policy, self.config.seed, shrink=factor)
                self.record(shrunk(factor), split, cells)

    def record_benchmarks(self, policy: PreTrainedModel) -> None:
        """``benchmarks.csv``: public tasks, of the policy and its reference; the policy's to the journal too."""
        table = benchmarks.benchmarks(self.stages, policy)
        self.save_table(table, benchmarks.FILE)
        own = table[table["control"] == str(TRAINED)].itertuples()
        self.journal.metrics(self.config.trainer.steps, {f"benchmark/{r.task}/{r.metric}": float(r.value) for r in own})
        self.journal.tags({"lm_eval": command(self.config.evaluation.harness)})

    def record(self, control: Control, split: str, cells: Cells) -> None:
        """The cells of one policy on one split, to ``results/`` and, of the policy itself, to the journal."""
        evaluation, last_step = self.config.evaluation, self.config.trainer.steps
        table = evaluate_targets(
            cells,
            self.shift,
            control=control,
            split=split,
            last_step=last_step,
            draws=evaluation.bootstrap,
            confidence=evaluation.confidence,
        )
        step = control.step_of(last_step)
        name = f"{control}_{split}_{step}"
        self.save_table(table, f"targets/{name}.csv", announce=False)
        prompts = per_prompt(cells, control=control, split=split, last_step=last_step)
        self.save_table(prompts, f"prompts/{name}.parquet", announce=False)
        if control.kind in (Kind.TRAINED, Kind.STEP):
            values = zip(table["target"], table["metric"], table["value"], strict=True)
            self.journal.metrics(step, {f"eval/{split}/{t}/{m}": float(v) for t, m, v in values})

    def save_table(self, table: pd.DataFrame, name: str, announce: bool = True) -> None:
        path = self.folder.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            if path.suffix == ".parquet":
                table.to_parquet(scratch, index=False)
            else:
                table.to_csv(scratch, index=False, float_format="%.10g")
        if announce:
            self.journal.artifact(str(path.relative_to(self.folder.path)))

    def finish(self) -> None:
        """Costs, and one long table of all targets: the last thing that is written."""
        seconds = self.usage.seconds | {f"saved_{e.stage}": e.seconds for e in self.stages.cache.events if e.reused}
        costs = {f"cost/seconds/{stage}": value for stage, value in seconds.items()}
        trained = self.config.trainer.steps * self.config.trainer.batch_size
        costs |= {f"cost/memory_bytes/{stage}": float(value) for stage, value in self.usage.memory.items()}
        if "train" in self.usage.seconds:
            costs["cost/seconds_per_pair"] = self.usage.seconds["train"] / trained
        self.journal.metrics(self.config.trainer.steps, costs)
        pairs = {"training_pairs": self.prepared.rows.fingerprint} if self.prepared else {}
        self.journal.tags({"device": str(device(self.config))} | pairs | inputs.reward_weights(self.config))
        for kind, merged in (("prompts", "prompts.parquet"), ("targets", TABLE)):
            parts = sorted((self.folder.results / kind).glob(f"*{Path(merged).suffix}"))
            reader = pd.read_parquet if kind == "prompts" else pd.read_csv
            whole = pd.concat([reader(part) for part in parts], ignore_index=True)
            if merged == TABLE and (far := ran_away(whole, self.config.evaluation.max_kl)):
                self.journal.tags({"ran_away": f"KL {far:.3g} nats a reply"})
            self.save_table(whole, merged)

    def clean(self) -> None:
        """Remove the files that only an unfinished run needs."""
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)
        for kind in ("targets", "prompts"):
            shutil.rmtree(self.folder.results / kind, ignore_errors=True)
        if self.config.trainer.save_model and self.folder.model.is_dir():
            self.stages.tokenizer.save_pretrained(self.folder.model)
            write_card(self.config, self.folder, Path(self.stages.base_path))
        else:
            shutil.rmtree(self.folder.model, ignore_errors=True)
