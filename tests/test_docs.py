"""The documentation says something about every key."""

from __future__ import annotations

import re
from pathlib import Path

from docs.hooks.pages import config_reference

ROOT = Path(__file__).resolve().parent.parent


def test_every_key_of_the_schema_has_a_meaning():
    rows = re.findall(r"^\| `([\w.]+)` \| .* \| .* \| (.*) \|$", config_reference(), flags=re.MULTILINE)
    assert len(rows) > 80
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_page_of_the_navigation_is_there():
    pages = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    written = [page for page in pages if page != "reference/config.md" and not page.startswith("notebooks/")]
    made = [page.removeprefix("notebooks/").replace(".md", ".ipynb") for page in pages if page.startswith("notebooks/")]
    assert sorted(made) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert len(written) > 8 and all((ROOT / "docs" / page).is_file() for page in written)


def test_the_reference_has_the_fields_that_a_set_inherits_and_the_common_keys_of_methods():
    from dataclasses import fields

    from robustalign.objectives import LOSSES, SETS
    from robustalign.training.objective import COMMON

    page = config_reference()
    for name, kind in {**LOSSES, **SETS}.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.*?) \|", page, flags=re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == {field.name for field in fields(kind) if field.init}, name
    assert {f"method.{key}" for key in COMMON} <= set(re.findall(r"^\| `([\w.]+)`", page, flags=re.MULTILINE))


def test_the_commands_that_pages_name_exist():
    from robustalign.cli.main import COMMANDS

    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {(page.name, word) for page in pages for word in re.findall(r"^robustalign ([a-z]+)", code(page), re.M)}
    assert len(named) > 10 and {word for _, word in named} <= set(COMMANDS)
    assert [
        page.name for page in pages if page.name in ("README.md", "index.md") and "scripts/" in page.read_text()
    ] == []


def code(page: Path) -> str:
    """The lines of code blocks, and `robustalign ...` in the text."""
    blocks = page.read_text().split("```")
    return "\n".join([*blocks[1::2], *(found for text in blocks[::2] for found in re.findall(r"`([^`\n]+)`", text))])


def test_the_demo_takes_as_long_everywhere():
    places = ["README.md", "docs/index.md", "Makefile", "robustalign/cli/main.py", "robustalign/cli/demo.py"]
    told = {place: re.findall(r"(\w+) minutes on 2 cores", (ROOT / place).read_text())[0] for place in places}
    assert set(told.values()) == {"7"}, told
