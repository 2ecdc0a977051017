"""Repositories that would run code of their own, on a Hub of this machine's loopback."""

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.judging import Attack, Harm
from tests.hub.loopback import File, Repository, loopback_hub
from tests.tiny import routable
from transformers import ViTImageProcessorPil

REPO = "org/malice"
_MARK = "import pathlib\npathlib.Path({sentinel!r}).touch()\n"
_CLASSES = """
from transformers import ImageClassificationPipeline, PreTrainedConfig, PreTrainedModel
class QuEEConfig(PreTrainedConfig): model_type = "quee"
class QuEEForImageClassification(PreTrainedModel): config_class = QuEEConfig
class QuEEImageClassificationPipeline(ImageClassificationPipeline): pass
"""
WAYS = {
    "`from_pretrained`": "from quee_hf import QuEEForImageClassification as M\nM.from_pretrained({repo!r})",
    "`AutoModelForImageClassification`": (
        "import quee_hf\nfrom transformers import AutoModelForImageClassification as M\nM.from_pretrained({repo!r})"
    ),
    "`AutoConfig`": "import quee_hf\nfrom transformers import AutoConfig\nAutoConfig.from_pretrained({repo!r})",
    "`pipeline`": (
        "import quee_hf\nfrom transformers import pipeline\nfrom PIL import Image\n"
        "pipeline('image-classification', model={repo!r})(Image.new('RGB', (20, 20)))"
    ),
    "`quee predict`": (
        "from PIL import Image\nImage.new('RGB', (20, 20)).save('x.png')\n"
        "from quee_hf.cli.app import app\napp(['predict', {repo!r}, 'x.png'])"
    ),
    "transformers without quee_hf": (
        "from transformers import AutoModelForImageClassification as M\nM.from_pretrained({repo!r})"
    ),
}
MOST_SECONDS = 240


class _Exploit:
    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._sentinel), "w")


def write(folder: Path, sentinel: Path) -> None:
    """Write a model's folder whose every file that could be code marks that it ran."""
    model = routable(levels=[8, 4])
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    mark = _MARK.format(sentinel=str(sentinel))
    for name in (
        "modeling_quee",
        "configuration_quee",
        "pipeline_quee",
        "handler",
        "quee_hf",
        "__init__",
        "setup",
    ):
        (folder / f"{name}.py").write_text(mark + _CLASSES)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(_Exploit(sentinel)))


def attacks(folder: Path, ways: Mapping[str, str] = WAYS) -> Iterator[Attack]:
    """Put such a repository on a Hub, and yield each way to load it; both are gone together."""
    sentinel = folder / "it-ran"
    write(folder / "model", sentinel)
    with loopback_hub() as hub:
        hub.repositories[REPO] = _repository(folder / "model")
        for number, (name, code) in enumerate(ways.items()):
            home = hub.environment(folder / f"home-{number}")
            yield Attack(
                f"code of its own, loaded by {name}",
                lambda code=code, home=home: _load(code.format(repo=REPO), folder, home, sentinel),
            )


def _repository(folder: Path) -> Repository:
    repository, files = Repository(), {}
    for file in folder.iterdir():
        content, is_large = file.read_bytes(), file.suffix == ".safetensors"
        blob = content if is_large else b"blob %d\0" % len(content) + content
        oid = (hashlib.sha256 if is_large else hashlib.sha1)(blob).hexdigest()
        files[file.name] = File(content, oid, is_large)
    repository.commit("main", files)
    return repository


def _load(code: str, folder: Path, settings: dict[str, str], sentinel: Path) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_SECONDS,
        stdin=subprocess.DEVNULL,  # nobody is there to be asked
    )
    if sentinel.exists():
        sentinel.unlink()
        raise Harm("code of the repository ran")
    return (
        "loads, nothing of it ran" if done.returncode == 0 else f"refused, nothing of it ran: {_error(done)}"
    )


def _error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
    return f"`{lines[-1].split(':')[0].split('.')[-1]}`" if lines else "no error"
