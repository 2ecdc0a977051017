"""`bundle`: write what some names of this package stand for, with all that they need, as one file.

So what is deployed is the code that this package runs and tests itself, not a copy that somebody keeps.
"""

import ast
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

_PACKAGE = "quee_hf"


class _Import(NamedTuple):
    module: str
    name: str | None  # in the module; `None` if the module itself is imported
    alias: str | None


class _Definition(NamedTuple):
    module: str
    node: ast.stmt
    text: str  # with the comments above it


class _Module(NamedTuple):
    """What a module calls by which name."""

    imports: dict[str, _Import]
    definitions: dict[str, _Definition]


def bundle(
    names: Sequence[tuple[str, str]], docstring: str, provided: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return the source of a file that defines some names of this package, and imports nothing of it.

    Args:
        names: Module and name of each.
        docstring: Of the file.
        provided: Names that it is to import from files that were made so before, by their module.

    Raises:
        ValueError: If two modules that are needed mean different things by one name.
    """
    owners = {name: module for module, found in (provided or {}).items() for name in found}
    parts = _Parts(owners)
    for module, name in names:
        parts.add(module, name)
    text = f'"""{docstring}"""\n\n{_import_lines(parts.imports)}'
    for module, definitions in groupby(parts.definitions, key=lambda each: each.module):
        text += f"\n\n\n# From {module.replace('.', '/')}.py"
        was_value = False
        for each in definitions:
            is_value = isinstance(each.node, ast.Assign | ast.AnnAssign)
            text += ("\n" if was_value and is_value else "\n\n\n") + each.text
            was_value = is_value
    return text + "\n"


def defined_names(source: str) -> list[str]:
    """Return the public names that a file defines."""
    nodes = ast.parse(source).body
    return [name for node in nodes for name in _targets(node) if not name.startswith("_")]


class _Parts:
    """Collects definitions, each after those that it needs."""

    def __init__(self, owners: Mapping[str, str]) -> None:
        self._owners = owners
        self._meanings: dict[str, object] = {}
        self.imports: set[_Import] = set()
        self.definitions: list[_Definition] = []

    def add(self, module: str, name: str) -> None:
        known = _read(module)
        if (imported := known.imports.get(name)) is not None:
            if imported.module.split(".")[0] == _PACKAGE:
                self.add(imported.module, str(imported.name))
            elif self._is_new(name, imported):
                self.imports.add(imported)
        elif (definition := known.definitions.get(name)) is not None:
            if name in self._owners:
                self.imports.add(_Import(self._owners[name], name, None))
            elif self._is_new(name, definition.node):
                self._add_definition(definition)

    def _add_definition(self, definition: _Definition) -> None:
        for node in ast.walk(definition.node):
            if isinstance(node, ast.Name):
                self.add(definition.module, node.id)
        if definition not in self.definitions:  # one statement may define several names
            self.definitions.append(definition)

    def _is_new(self, name: str, meaning: object) -> bool:
        if name in self._meanings:
            if self._meanings[name] != meaning:
                raise ValueError(f"{name!r} means different things in modules that are needed: rename one.")
            return False
        self._meanings[name] = meaning
        return True


@cache
def _read(module: str) -> _Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines, found = source.splitlines(), _Module({}, {})
    for node in ast.parse(source).body:
        for bound, imported in _imports(node):
            found.imports[bound] = imported
        start = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]) - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        text = "\n".join(lines[start : node.end_lineno])
        for name in _targets(node):
            found.definitions[name] = _Definition(module, node, text)
    return found


def _imports(node: ast.stmt) -> Iterator[tuple[str, _Import]]:
    """Return what a statement imports, by the name that it gets."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0], _Import(alias.name, None, alias.asname)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, _Import(str(node.module), alias.name, alias.asname)


def _targets(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return []


def _import_lines(imports: set[_Import]) -> str:
    """Write imports as ruff sorts them: the standard library, then others; modules, then names of modules."""
    groups: dict[bool, list[str]] = defaultdict(list)
    for module, name, alias in sorted(imports, key=lambda each: (each.module, each.name or "")):
        if name is None:
            text = f"import {module}" + (f" as {alias}" if alias else "")
            groups[module.split(".")[0] not in sys.stdlib_module_names].append(text)
    for module, found in groupby(
        sorted(each for each in imports if each.name is not None), key=lambda each: each.module
    ):
        named = [f"{name} as {alias}" if alias else str(name) for _, name, alias in found]
        text = f"from {module} import {', '.join(named)}"
        groups[module.split(".")[0] not in sys.stdlib_module_names].append(text)
    return "\n\n".join("\n".join(groups[is_other]) for is_other in (False, True) if groups[is_other])
