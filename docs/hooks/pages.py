"""Pages that are not written by hand: the config reference, from the schema, and the notebooks as pages.

``python docs/hooks/pages.py`` prints the config reference.
"""

from __future__ import annotations

import ast
import json
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "robustalign" / "config.py"
OBJECTIVES = (("losses", "Pair losses", "method.loss"), ("sets", "Ambiguity sets", "method.set"))


def on_files(files: Any, config: Any) -> Any:
    """Add the config reference and the notebooks."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/config.md", content=config_reference()))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def notebook_page(path: Path) -> str:
    """A notebook's words and code as markdown; what it prints is seen where it is run."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = {"markdown": "{}", "code": "```python\n{}\n```"}
    parts = [shown[cell["cell_type"]].format("".join(cell["source"])) for cell in cells if cell["source"]]
    return "\n\n".join([*parts, f"*From `notebooks/{path.name}`, which the tests run from top to bottom.*"]) + "\n"


def config_reference() -> str:
    """Every key of the schema with its type, default and meaning, as markdown."""
    classes, comments = _parsed(SCHEMA)
    parts = [
        "# Config keys\n",
        "Made from the schema, `robustalign/config.py`. Values live in `conf/`; any key can be overridden on the",
        "command line (`KEY=VALUE`). `--cfg job` prints the values of a run.\n",
    ]
    parts += _section(classes, comments, "Config", "")
    parts += _section(*_parsed(ROOT / "robustalign" / "training" / "objective.py"), "Objective", "method.")
    for folder, title, key in OBJECTIVES:
        parts += [f"\n## {title}: `{key}`\n", "The fields of the chosen one are further keys of `method`.\n"]
        parts += ["| name | keys | what it is |", "|---|---|---|"]
        parts += sorted(_objectives(ROOT / "robustalign" / "objectives" / folder))
    return "\n".join(parts) + "\n"


def _parsed(path: Path) -> tuple[dict[str, ast.ClassDef], dict[int, str]]:
    """The classes of a module by name, and its comments by line."""
    source = path.read_text()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    return classes, dict(_comments(source))


def _section(classes: dict[str, ast.ClassDef], comments: dict[int, str], name: str, prefix: str) -> list[str]:
    node, rows, below = classes[name], [], []
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        key, kind = prefix + field.target.id, ast.unparse(field.annotation)
        if kind in classes:
            below += _section(classes, comments, kind, f"{key}.")
            continue
        meaning = comments.get(field.end_lineno or 0, "")
        default, allowed = _declared(field.value)
        rows.append(f"| `{key}` | {_cell(kind + allowed)} | {_default(default)} | {_cell(meaning)} |")
    heading = f"\n## `{prefix.rstrip('.')}`\n" if prefix else "\n## Top level\n"
    about = (ast.get_docstring(node) or "").splitlines()[0]
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    return [heading, f"{about}\n", *table, *below]


def _declared(value: ast.expr | None) -> tuple[ast.expr | None, str]:
    """The default of a field and, of a number, its interval: what ``robustalign.bounds`` declares."""
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or not value.args:
        return value, ""
    last = value.args[-1]
    interval = f" in {last.value}" if isinstance(last, ast.Constant) and value.func.id in ("number", "numbers") else ""
    return (ast.List([]) if value.func.id == "numbers" else value.args[0]), interval


def _default(value: ast.expr | None) -> str:
    shown = "" if value is None else ast.unparse(value)
    shown = {"field(default_factory=list)": "[]", "field(default_factory=dict)": "{}", "None": "null"}.get(shown, shown)
    return "from `conf/`" if shown in ("MISSING", "") else f"`{_cell(shown)}`"


def _objectives(folder: Path) -> Iterator[str]:
    bases, _ = _parsed(folder.parent / "streaming.py")
    for path in sorted(folder.glob("*.py")):
        own, _ = _parsed(path)
        classes = bases | own
        for node in own.values():
            if name := _name(node):
                keys = " ".join(f"`{key}`" for key in _fields(node, classes))
                about = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                yield f"| `{name}` | {keys or '-'} | {_cell(about)} |"


def _fields(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The fields of a dataclass, those of its bases first."""
    inherited = [key for base in node.bases for key in _fields_of(ast.unparse(base), classes)]
    own = [
        field.target.id
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and "ClassVar" not in ast.unparse(field.annotation)
    ]
    return list(dict.fromkeys([*inherited, *own]))


def _fields_of(base: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    return _fields(classes[base], classes) if base in classes else []


def _name(node: ast.ClassDef) -> str | None:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == "name" and field.value is not None:
            return str(ast.literal_eval(field.value))
    return None


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(config_reference())
