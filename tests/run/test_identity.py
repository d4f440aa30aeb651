"""The same run keeps its folder, another run gets another, and names say what varies."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, replace

from robustalign.run.identity import agree, flat, identity, labels, place, varies, varying_keys


def test_where_to_write_is_no_part_of_a_run(make, base):
    one = make("method=kldpo", "seed=3")
    other = make("method=kldpo", "seed=3", "tracking.experiment=x", "sweep.retry=all", "label=mine")
    assert identity(one, base) == identity(other, base)
    assert len(identity(one, base)) == 12


def test_every_other_key_is(make, base):
    configs = [make(), make("seed=1"), make("method=kldpo"), make("method=kldpo", "method.temperature=1")]
    configs.append(make("+shift.targets.half=[0.5,0.5]"))
    assert len({identity(config, base) for config in configs}) == len(configs)


def test_equal_numbers_are_the_same_value(make, base):
    whole, real = (make("method=kldpo", f"method.temperature={t}") for t in ("1", "1.0"))
    assert identity(whole, base) == identity(real, base)
    assert varying_keys([whole, real]) == []


def test_a_new_key_with_a_default_keeps_finished_runs(make, base, tmp_path):
    config = make("seed=1")
    folder = place(tmp_path, config, base)
    folder.freeze(config)
    later, later_base = deepcopy(config), deepcopy(base)
    later.method["new"] = later_base.method["new"] = 1.0
    assert identity(later, later_base) == identity(config, base)
    assert place(tmp_path, later, later_base).path == folder.path


def test_a_changed_default_makes_another_run(make, base, tmp_path):
    config = make("seed=1")
    place(tmp_path, config, base).freeze(config)
    faster = replace(base.trainer, max_steps=40)
    later, later_base = replace(config, trainer=faster), replace(base, trainer=faster)
    assert identity(later, later_base) == identity(config, base)
    folder = place(tmp_path, later, later_base)
    assert folder.name == identity(config, base) + "-2"
    folder.freeze(later)
    assert place(tmp_path, later, later_base).path == folder.path
    assert place(tmp_path, config, base).name == identity(config, base)


def test_a_frozen_config_is_the_config(make, base, tmp_path):
    config = make("method=wdpo", "shift=emotion_mixture", "shift.nominal=0.25", "evaluation.steps=[1,2]")
    folder = place(tmp_path, config, base)
    folder.freeze(config)
    assert folder.config() == config
    assert agree(flat(folder.frozen()), flat(config))


def test_names_say_what_varies_and_no_more(make):
    sweep = [make(f"method={method}", f"seed={seed}") for method in ("dpo", "kldpo", "wdpo") for seed in (0, 1)]
    assert varies(sweep)[:4] == ["dpo seed=0", "dpo seed=1", "kldpo seed=0", "kldpo seed=1"]
    tilts = [make("method=kldpo", f"method.temperature={t}", "seed=3") for t in (0.5, 2)]
    assert varies([make("seed=3"), *tilts]) == ["dpo", "kldpo temperature=0.5", "kldpo temperature=2"]
    assert varies([make()]) == ["dpo"]
    assert varying_keys(sweep) == ["seed"]


def test_keys_with_the_same_last_word_stay_apart(make):
    configs = [
        make(f"trainer.batch_size={b}", f"evaluation.batch_size={e}", "trainer.micro_batch_size=8")
        for b, e in ((16, 8), (16, 4), (8, 8))
    ]
    assert varies(configs)[0] == "dpo evaluation.batch_size=8 trainer.batch_size=16"


def test_a_label_names_the_point(make):
    configs = [make(f"label=slow {s}", "trainer.learning_rate=5e-4", f"seed={s}") for s in (0, 1)]
    assert varies([*configs, make("seed=0")]) == ["slow 0", "slow 1", "dpo"]


def test_a_label_names_the_values_in_which_points_of_the_same_name_differ(make):
    def sweep(*points: str):
        return [make(*point.split(), f"seed={seed}") for point in points for seed in (0, 1)]

    radii = sweep("method=tv method.radius=0.05", "method=tv method.radius=0.3", "method=dpo")
    assert labels(radii)[::2] == ["tv radius=0.05", "tv radius=0.3", "dpo"]
    assert labels(radii)[1::2] == labels(radii)[::2]
    assert labels([asdict(config) for config in radii]) == labels(radii)
    named = sweep("label=slow trainer.learning_rate=5e-4", "label=slow trainer.learning_rate=1e-4", "label=fast")
    assert labels(named)[::2] == ["slow learning_rate=0.0005", "slow learning_rate=0.0001", "fast"]
    close = sweep("method=tv method.radius=0.12345678", "method=tv method.radius=0.12345679")
    assert len(set(labels(close))) == 2 and len(set(varies(close))) == 4
    machine = [make("trainer.threads=1"), make("trainer.threads=2")]
    assert labels(machine) == ["dpo", "dpo"]
    assert labels([make("method=tv", "method.radius=0.3")]) == ["tv"]
