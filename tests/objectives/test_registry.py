import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

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
