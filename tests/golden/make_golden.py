"""Write the golden files anew: `PYTHONPATH=src:. python tests/golden/make_golden.py`.

Do so only when files of the format before need not load any more, or a converter makes up for it.

`file_format.json`: names, kinds and shapes of the tensors of a small model, and the fields of its config. Right
because files of format 2 look so: a reader that expects anything else cannot read them.

`paths.json`: which paths are sampled, by seed. Right because a file does not store its paths, only the seed: another
choice would give every gate's outputs another meaning.
"""

import json
import tempfile
from pathlib import Path

from safetensors import safe_open
from tests.tiny import VARIANTS, routable

from quee_hf.paths import PathRules

HERE = Path(__file__).parent
FIELDS = {"levels": ["fp32", 8, 3], "head_type": "ssa", "head_hidden_size": 8, "first_level": "any"}
SAMPLES = [
    {"rules": [6, 3, True, True], "max_paths": 20, "seed": 0},
    {"rules": [6, 3, True, False], "max_paths": 20, "seed": 1},
    {"rules": [5, 4, False, True], "max_paths": 20, "seed": 2},
    {"rules": [5, 4, False, False], "max_paths": 20, "seed": 3},
    {"rules": [12, 4, True, True], "max_paths": 50, "seed": 0},
]


def file_format() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        routable(VARIANTS["dinov2-swiglu"], **FIELDS).save_pretrained(folder)
        with safe_open(Path(folder, "model.safetensors"), framework="pt") as file:
            slices = {key: file.get_slice(key) for key in sorted(file.keys())}
            tensors = {key: [piece.get_dtype(), *piece.get_shape()] for key, piece in slices.items()}
        config = json.loads(Path(folder, "config.json").read_text())
    return {"fields": FIELDS, "config_keys": sorted(config), "tensors": tensors}


def paths() -> list[dict[str, object]]:
    return [
        {**sample, "paths": PathRules(*sample["rules"]).select(sample["max_paths"], sample["seed"])}
        for sample in SAMPLES
    ]


def write(name: str, content: object) -> None:
    # One entry a line, so that a change reads well.
    text = json.dumps(content)
    for mark in ('"tensors": {', "], ", "}, ", '"config_keys": ['):
        text = text.replace(mark, mark.rstrip() + "\n")
    (HERE / name).write_text(text + "\n")


if __name__ == "__main__":
    write("file_format.json", file_format())
    write("paths.json", paths())
