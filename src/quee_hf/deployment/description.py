"""What an exported folder says of its model, in `router.json`. Needs no PyTorch."""

import hashlib
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

from quee_hf.levels import Level

DESCRIPTION_FILE = "router.json"
EXPORT_FORMAT = 2  # 1, never released, had no checksums
# That of the file itself, with zeros in its own place.
_CHECKSUM = re.compile(r'"checksum": "([0-9a-f]{64})"')
_BLANK = "0" * 64


class GateDescription(NamedTuple):
    """How scores become decisions."""

    type: str  # as `QuEEConfig.gate_type`
    first_errors: list[float] | None  # of each path, before the first segment; of gates that predict errors
    lambdas: list[float] | None  # ascending; of gates that leave at a threshold
    thresholds: list[list[float]] | None  # for each of these, of each exit but the last


class GraphNames(NamedTuple):
    """The files of the graphs."""

    embedding: str
    segments: list[list[str]]  # for each segment, at each level
    heads: list[str]  # one for each exit
    gates: list[str]  # one for each exit but the last; none if gates are not trained

    def all(self) -> list[str]:
        """Return every name once."""
        names = [self.embedding, *(name for row in self.segments for name in row), *self.heads, *self.gates]
        return list(dict.fromkeys(names))


class Description(NamedTuple):
    """All that routing needs to know of a model beside its graphs."""

    format_version: int
    quee_hf: str  # the version that wrote it
    input_shape: list[int]  # channels, height, width
    labels: list[str]
    levels: list[Level]
    exit_blocks: list[int]
    paths: list[list[int]]  # that gates know, as level indices
    path_costs: list[float]
    path_choices: list[bool]  # which of them may be chosen
    cost_model: str
    segment_costs: list[list[float]]  # of each segment at each level
    cost_lambda: float | None  # the default; `None` runs the whole network at the most exact level
    operating_points: list[dict[str, Any]] | None
    gate: GateDescription | None  # `None` if gates are not trained
    preprocessing: dict[str, Any] | None  # as `quee_hf.deployment.image_reader.ImageReader` takes it
    graphs: GraphNames
    checksums: dict[str, str]  # SHA-256 of the file of each graph


def write_description(folder: pathlib.Path, description: Description) -> None:
    """Write `router.json`, which holds finite numbers alone: infinity, as a lambda may be, is a word."""
    fields = description._asdict()
    fields["gate"] = None if description.gate is None else description.gate._asdict()
    fields["graphs"] = description.graphs._asdict()
    fields["checksum"] = _BLANK
    text = json.dumps(_finite(fields), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    text = text.replace(f'"checksum": "{_BLANK}"', f'"checksum": "{_digest(text)}"')
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


def hash_graph(file: pathlib.Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return "inf" if value == math.inf else value


def read_description(folder: pathlib.Path) -> Description:
    """Read `router.json`, and see that the graphs are there.

    Raises:
        ValueError: If there is none, it was written in another format or changed since, or something is
            missing.
    """
    fields = read_fields(folder)
    fields["graphs"] = GraphNames(**fields["graphs"])
    fields["gate"] = None if fields["gate"] is None else GateDescription(**fields["gate"])
    fields["cost_lambda"] = None if fields["cost_lambda"] is None else float(fields["cost_lambda"])
    description = Description(**fields)
    missing = [name for name in description.graphs.all() if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} missing.")
    return description


def read_fields(folder: pathlib.Path) -> dict[str, Any]:
    """Return what `router.json` says, as it was written.

    Raises:
        ValueError: If there is none, it was written in another format or changed since.
    """
    file = folder / DESCRIPTION_FILE
    if not file.is_file():
        raise ValueError(f"{folder} has no {DESCRIPTION_FILE}: it is not an exported model.")
    try:
        text = file.read_text(encoding="utf-8")
        fields: dict[str, Any] = json.loads(text)
        version = fields["format_version"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{file} cannot be used, it is damaged: {error!r}.") from error
    if version != EXPORT_FORMAT:
        raise ValueError(
            f"{file} cannot be used: it was exported in format {version}; this router reads {EXPORT_FORMAT}."
        )
    found = _CHECKSUM.search(text)
    if found is None or _digest(text.replace(found[1], _BLANK)) != found[1]:
        raise ValueError(
            f"{file} cannot be used: it is damaged, or was changed since it was written, which its checksum"
            " tells. Export the model anew."
        )
    del fields["checksum"]
    return fields
