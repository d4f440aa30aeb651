import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest
import torch

from robustalign.objectives import LOSSES, SETS, AmbiguitySet, PairLoss
from robustalign.objectives.registry import discover


@pytest.mark.parametrize(("registry", "base"), [(LOSSES, PairLoss), (SETS, AmbiguitySet)])
def test_entries_are_named_documented_dataclasses(registry, base):
    for name, entry in registry.items():
        assert issubclass(entry, base) and is_dataclass(entry) and entry.name == name
        for field in fields(entry):
            assert f"{field.name}: " in entry.__doc__, f"{name} does not document {field.name}"


def test_losses_and_sets_share_no_key():
    keys = [{field.name for entry in registry.values() for field in fields(entry)} for registry in (LOSSES, SETS)]
    assert not keys[0] & keys[1]


def test_a_new_module_is_found_and_a_clash_refused(tmp_path, monkeypatch):
    folder = tmp_path / "more_losses"
    folder.mkdir()
    (folder / "__init__.py").touch()
    body = (
        "from robustalign.objectives import SigmoidLoss\nclass {}(SigmoidLoss):\n    '''Doc.'''\n    name = 'sharper'\n"
    )
    (folder / "one.py").write_text(body.format("One"))
    monkeypatch.syspath_prepend(tmp_path)
    assert list(discover("more_losses", PairLoss)) == ["sharper"]
    (folder / "two.py").write_text(body.format("Two"))
    with pytest.raises(ValueError, match=r"One.*Two|Two.*One"):
        discover("more_losses", PairLoss)


def test_importable_with_torch_alone():
    program = (
        "import sys, robustalign.objectives\n"
        "print([m for m in ('transformers', 'hydra', 'omegaconf', 'datasets', 'mlflow', 'pandas') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", SETS)
def test_a_knob_is_a_field_and_the_worst_case_grows_with_its_strength(name):
    entry = SETS[name]
    assert entry.acts_on in ("weights", "inputs", "output_layer")
    losses = torch.tensor([0.1, 0.4, 0.9, 2.0], dtype=torch.float64)
    for knob in entry.knobs:
        assert knob.field in {field.name for field in fields(entry)} and knob.unit
        values = (0.1, 0.3, 0.7)
        assert sorted(values, key=knob.strength) == sorted(values, reverse=knob.stronger < 0)
        assert knob.strength(knob.nominal) == 0 < knob.strength(0.3)
        assert entry.knob({knob.field: 0.3}).field == knob.field
        if entry.acts_on == "weights" and "group" not in entry.needs:
            sets = [entry(**{knob.field: value}) for value in sorted(values, key=knob.strength)]
            worst = [float(ambiguity.worst_case(losses).value) for ambiguity in sets]
            assert float(losses.mean()) < worst[0] < worst[1] < worst[2]
    assert entry.knob({}) is None


def test_the_knob_of_a_config_is_the_one_that_it_sets():
    assert SETS["kl"].knob({"radius": 0.1, "temperature": None}).unit == "nats"
    assert SETS["kl"].knob({"radius": None, "temperature": 0.1}).stronger == -1
    ball = SETS["wasserstein"]
    assert ball.knob({"radius": 0.1}) == ball.knobs[0]
    assert ball.knob({"radius": 0.1, "radius_unit": "absolute"}).unit != ball.knobs[0].unit
    assert SETS["nominal"].knob({"radius": 0.1}) is None
