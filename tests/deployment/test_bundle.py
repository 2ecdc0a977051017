"""Tests of `bundle`, and of what stands beside exported graphs: it imports nothing of this package, nor PyTorch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.deployment.deployed import export
from tests.tiny import images, routable

from quee_hf.deployment import bundle as bundle_module
from quee_hf.deployment.bundle import bundle, defined_names
from quee_hf.deployment.files import HOST_FILES, write_host_files
from quee_hf.deployment.host import HostRouter

ALLOWED = {
    "quee_router.py": {"numpy", "onnxruntime"},
    "quee_images.py": {"numpy", "PIL"},
    "handler.py": {"PIL", "quee_router", "quee_images"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    write_host_files(folder)
    return folder


def imported(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


class TestHostFiles:
    def test_are_all_there(self, written):
        assert {path.name for path in written.iterdir()} == set(HOST_FILES)
        assert (written / "requirements.txt").read_text().split() == ["numpy", "onnxruntime", "pillow"]

    @pytest.mark.parametrize("name", ALLOWED)
    def test_import_what_they_may(self, written, name):
        found = imported((written / name).read_text()) - set(sys.stdlib_module_names)
        assert found == ALLOWED[name]

    @pytest.mark.parametrize("name", ALLOWED)
    def test_every_name_has_a_meaning(self, written, name):
        """As far as ruff tells: no name is undefined, none imported in vain."""
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", written / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

    def test_hold_the_text_of_this_package(self, written):
        router = (written / "quee_router.py").read_text()
        package = Path(sys.modules["quee_hf"].__file__).parent
        for file, start in (("routing/policy.py", "def first_best"), ("paths.py", "class PathTree")):
            source = (package / file).read_text()
            node = next(
                node
                for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and start.endswith(f" {node.name}")
            )
            assert ast.get_source_segment(source, node) in router

    def test_are_the_same_every_time(self, written, tmp_path):
        write_host_files(tmp_path)
        for name in HOST_FILES:
            assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_a_folder_runs_where_there_is_no_torch(tmp_path):
    folder = export(routable(levels=["fp32", 8]), tmp_path / "model")
    pixel_values = images(8, seed=3).numpy()
    expected = HostRouter(folder)(pixel_values, cost_lambda=0.1)
    np.save(tmp_path / "pixels.npy", pixel_values)
    code = """
import json, sys
for name in ("torch", "transformers", "quee_hf", "onnx", "huggingface_hub", "scipy"):
    sys.modules[name] = None  # importing it fails
import numpy as np
from PIL import Image
from handler import EndpointHandler
from quee_images import ImageReader
from quee_router import HostRouter, describe_images
router = HostRouter(".")
routed = router(np.load("../pixels.npy"), cost_lambda=0.1)
answers = EndpointHandler(".")({"inputs": Image.new("RGB", (40, 50)), "parameters": {"top_k": 1}})
print(json.dumps([routed.path.tolist(), routed.logits.tolist(), answers]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    path, logits, answers = json.loads(done.stdout)
    assert path == expected.path.tolist()
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert len(answers) == 1
    assert set(answers[0]) == {"label", "score"}


class TestBundle:
    @pytest.fixture
    def modules(self, tmp_path, monkeypatch):
        package = tmp_path / "quee_hf_sample"
        package.mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("quee_hf.deployment.bundle._PACKAGE", package.name)
        sys.modules.pop(package.name, None)  # of the test before
        bundle_module._read.cache_clear()

        def write(**files):
            for name, text in files.items():
                (package / f"{name}.py").write_text(text)
            (package / "__init__.py").touch()
            return package.name

        return write

    def test_takes_what_is_needed_and_no_more(self, modules):
        name = modules(
            one="import json\nimport math\n\n# A comment.\nA, B = 1, math.pi\n\n\ndef used():\n    return A\n\n\ndef unused():\n    return json\n",
            two="from quee_hf_sample.one import used\n\n\nclass C:\n    def m(self):\n        return used(), C\n",
        )
        source = bundle([(f"{name}.two", "C")], docstring="Text.")
        space: dict = {}
        exec(source, space)
        assert space["C"]().m() == (1, space["C"])
        assert "# A comment.\nA, B = 1, math.pi" in source
        assert "unused" not in source
        assert "json" not in source
        assert source.count("math.pi") == 1
        assert source.startswith('"""Text."""\n\nimport math\n\n\n# From quee_hf_sample/one.py\n')
        assert sorted(defined_names(source)) == ["A", "B", "C", "used"]

    def test_imports_what_another_file_provides(self, modules):
        name = modules(one="X = 5\n", two="from quee_hf_sample.one import X\n\nY = X + 1\n")
        source = bundle([(f"{name}.two", "Y")], docstring="Text.", provided={"first": ["X"]})
        assert "from first import X" in source
        assert "X = 5" not in source

    def test_a_name_with_two_meanings_is_refused(self, modules):
        name = modules(
            one="_N = 1\n\n\ndef f():\n    return _N\n",
            two="from quee_hf_sample.one import f\n\n_N = 2\n\n\ndef g():\n    return f() + _N\n",
        )
        with pytest.raises(ValueError, match="'_N' means different things"):
            bundle([(f"{name}.two", "g")], docstring="Text.")
