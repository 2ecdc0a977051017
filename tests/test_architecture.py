"""Tests of the package's shape: documented, small, layered, named after concepts."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import quee_hf

SOURCE = Path(quee_hf.__file__).parent
REPOSITORY = SOURCE.parents[1]
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 300
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "misc", "core"}


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def modules() -> list[str]:
    return ["quee_hf", *(info.name for info in pkgutil.walk_packages(quee_hf.__path__, "quee_hf."))]


@pytest.mark.parametrize("path", FILES, ids=relative)
class TestFiles:
    def test_is_not_long(self, path):
        assert len(path.read_text().splitlines()) <= MAX_LINES

    def test_is_named_after_a_concept(self, path):
        assert path.stem not in FORBIDDEN_NAMES
        assert not FORBIDDEN_NAMES & set(path.relative_to(SOURCE).parts)
        assert path.stem != path.parent.name  # no stutter

    def test_says_in_a_line_what_it_holds(self, path):
        tree = ast.parse(path.read_text())
        if tree.body:
            docstring = ast.get_docstring(tree)
            assert docstring
            assert docstring.splitlines()[0].endswith(".")

    def test_functions_are_short(self, path):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                length = body[-1].end_lineno - body[0].lineno + 1
                assert length <= 40, f"{node.name} has {length} lines"

    def test_private_names_stay_in_their_file(self, path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quee_hf"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{private} of {node.module}"

    def test_imports_are_absolute_and_name_what_they_need(self, path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                assert [alias.name for alias in node.names] != ["*"]

    def test_no_machine_is_named(self, path):
        text = path.read_text()
        assert not [root for root in ("/home/", "/tmp/", "/Users/") if root in text]


@pytest.mark.parametrize("name", modules())
class TestPublicNames:
    def test_exist_and_are_documented(self, name):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            thing = getattr(module, public)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert inspect.getdoc(thing), public
                inherited = inspect.isclass(thing) and thing.__doc__ is None
                assert not inherited, public

    def test_of_classes_have_documented_methods(self, name):
        module = importlib.import_module(name)
        for class_name, thing in vars(module).items():
            if class_name.startswith("_") or not inspect.isclass(thing) or thing.__module__ != name:
                continue
            for method, value in vars(thing).items():
                if inspect.isfunction(value) and not method.startswith("_"):
                    assert inspect.getdoc(getattr(thing, method)), f"{class_name}.{method}"


def test_the_package_says_what_is_public():
    assert list(quee_hf.__all__) == sorted(quee_hf.__all__)
    assert {"QuEEConfig", "QuEEForImageClassification", "quantize"} <= set(quee_hf.__all__)


def test_import_layers_hold():
    """The contract stands in `setup.cfg`."""
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("import-linter is not installed beside this Python.")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(
        [command, "--no-cache", "--config", "setup.cfg"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_references_do_not_import_what_they_check():
    for path in (Path(__file__).parent / "reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("quee_hf", "torch", "transformers")]
