"""Every loss and every set shows what it does, and what it shows is true."""

from __future__ import annotations

import doctest
import sys

import pytest

from robustalign.objectives import LOSSES, SETS


@pytest.mark.parametrize("name", [*LOSSES, *SETS])
def test_the_example_in_its_docstring_holds(name):
    kind = {**LOSSES, **SETS}[name]
    module = sys.modules[kind.__module__]
    (found,) = doctest.DocTestFinder(recurse=False).find(kind, name, module=module)
    assert found.examples, f"{kind.__name__} has no example in its docstring"
    told: list[str] = []
    failures, _ = doctest.DocTestRunner().run(found, out=told.append)
    assert failures == 0, "".join(told)
