"""Damaged JSON and YAML: any value of any field may be anything else."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.deployment.deployed import export
from tests.faults.judging import Attack, Harm, Verdict, judge
from tests.profiles import CERTIFICATE, make_profile
from tests.tiny import images, routable
from typer.testing import CliRunner

from quee_hf import QuEEForImageClassification
from quee_hf.build.run_directory import RunDirectory
from quee_hf.cli.app import app
from quee_hf.deployment.host import HostRouter
from quee_hf.deployment.image_reader import ImageReader

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 7, 64, 10**6, 10**9, 10**18, 10**400, -(10**400)]),
    st.sampled_from([0.5, -0.5, 1e308, math.nan, math.inf, -math.inf]),
    st.text(max_size=5),
    st.sampled_from(["", "8", "fp32", "latency", "quee", "\ud800", "../../x", "x" * 3000]),
)
ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_DEEP: Any = 0
for _ in range(400):
    _DEEP = [_DEEP]
_UNKNOWN = ("levls", "", "__class__", "validate", "_name", "0")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from _places(each, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy of a JSON object with another value somewhere, a value missing, or one too many."""
    found = copy.deepcopy(whole)
    *path, key = draw(st.sampled_from(list(_places(whole))))
    node = found
    for step in path:
        node = node[step]
    way = draw(st.sampled_from(["replaced"] * 8 + ["removed", "added", "nested"]))
    if way == "replaced":
        node[key] = draw(ANYTHING)
    elif way == "nested":
        node[key] = _DEEP
    elif way == "removed":
        del node[key]
    else:
        found[draw(st.sampled_from(_UNKNOWN))] = draw(ANYTHING)
    return found


TEXTS = {
    "nothing": "",
    "half of it": '{"levels": [8,',
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "nested 100,000 deep": "[" * 100_000,
    "an object nested 100,000 deep": '{"a":' * 100_000,
    "bytes that are no text": "\udcff\udcfe",
}


class Reader:
    """A file that is damaged, and what reads it.

    Args:
        name: Of the file.
        file: Where.
        whole: What it says.
        read: Reads it, and says what came of it.
    """

    def __init__(self, name: str, file: Path, whole: dict[str, Any], read: Callable[[], str]) -> None:
        self.name, self.file, self.whole, self._read = name, file, whole, read

    def attack(self, content: dict[str, Any] | str) -> Attack:
        def run() -> str:
            text = content if isinstance(content, str) else json.dumps(content)
            self.file.write_bytes(
                text.encode(errors="surrogateescape" if content is text else "surrogatepass")
            )
            return self._read()

        kind = "is other text" if isinstance(content, str) else "has other values in its fields"
        return Attack(f"`{self.name}` {kind}", run)


def readers(folder: Path) -> list[Reader]:
    """Return all files of JSON that quee_hf itself reads, each beside what it belongs to."""
    return [_config(folder / "config"), _router(folder / "router"), _done(folder / "done"), _recipe(folder)]


def _config(folder: Path) -> Reader:
    model = routable(levels=[8, 4])
    points = [
        {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9, "num_images": 10, "exit_shares": [0.5, 0.5, 0]}
    ]
    role = {"role": "test", "source": "x", "num_images": 3, "fingerprint": "ab", "sketch": "cd"}
    model.config.operating_points = points
    model.config.certificates = [{**CERTIFICATE, "cost_model": "bitops"}]
    model.config.record = {"profile": make_profile(3, 2), "roles": [role], "license": "mit"}
    model.save_pretrained(folder)

    def read() -> str:
        loaded = QuEEForImageClassification.from_pretrained(folder)
        same = all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
        if not same:
            raise Harm("other weights")
        return "loads, and says what the file says"

    return Reader(
        "config.json", folder / "config.json", json.loads((folder / "config.json").read_text()), read
    )


def _router(folder: Path) -> Reader:
    export(routable(levels=["fp32", 8]), folder)
    pixel_values = images(2).numpy()
    expected = HostRouter(folder)(pixel_values, cost_lambda=0.1)

    def read() -> str:
        ImageReader.from_folder(folder)
        found = HostRouter(folder)(pixel_values, cost_lambda=0.1)
        if found.logits.tolist() != expected.logits.tolist() or found.path.tolist() != expected.path.tolist():
            raise Harm("other answers")
        return "the same answers"

    return Reader(
        "router.json", folder / "router.json", json.loads((folder / "router.json").read_text()), read
    )


def _done(folder: Path) -> Reader:
    directory = RunDirectory(folder)
    with directory.locked(), directory.building("1-convert") as stage:
        (stage / "weights").write_text("x")
        inputs = {"format": 3, "recipe": {"seed": 0}, "fingerprints": {"model": "ab"}, "upstream": None}
        said = {"stage": "1-convert", "hash": "cd", "inputs": inputs, "versions": {"quee_hf": "1"}, "seed": 0}
        directory.write_done(stage, {**said, "seconds": 1.5})
    whole = directory.read_done("1-convert") or {}

    def read() -> str:
        found = directory.read_done("1-convert")
        if found is None:
            return "the stage counts as damaged, and is made again"
        if {**found, "seconds": 0} != {**whole, "seconds": 0}:
            raise Harm("another record is believed")
        return "the same, but for the seconds"

    return Reader("done.json", folder / "stages" / "1-convert" / "done.json", whole, read)


def _recipe(folder: Path) -> Reader:
    whole = {"exits": [1, 2], "levels": [8, 4], "keep": {"1.fc2": 8}, "ptq": "repq", "seed": 0, "head": "linear",
             "train": "nowhere", "validation": "nowhere", "model": "./nowhere", "class_names": ["a", "b"]}  # fmt: skip

    def read() -> str:
        command = ["build", "--recipe", str(folder / "recipe.yaml"), "--output", str(folder / "out")]
        result = CliRunner().invoke(app, command)
        if result.exit_code not in (1, 2) or "error: " not in result.stderr or "Traceback" in result.stderr:
            raise Harm(f"exit code {result.exit_code}: {result.stderr[-150:]}")
        return "the command refuses it in one line"

    return Reader("recipe.yaml", folder / "recipe.yaml", whole, read)


def judged(reader: Reader, count: int) -> list[Verdict]:
    """Return what became of so many damaged files, and of the texts that are no such file at all."""
    verdicts = [judge(reader.attack(text), (ValueError, OSError)) for text in TEXTS.values()]

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(reader.whole))
    def damage(content: dict[str, Any]) -> None:
        verdicts.append(judge(reader.attack(content), (ValueError, OSError)))

    damage()
    return verdicts
