"""Class embeddings: what a CLIP model compares images with, one text embedding for each class."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

_NAME, _SCALE = "class_embeddings", "logit_scale"


def read_class_embeddings(source: Tensor | str | os.PathLike[str], size: int) -> tuple[Tensor, float | None]:
    """Return normalised class embeddings, and the logit scale that is stored with them.

    Args:
        source: `(classes, size)`, or a safetensors file that holds them as `class_embeddings`, and perhaps
            `logit_scale`.
        size: Of the model's image embeddings.

    Returns:
        `(classes, size)`, float32, and the natural logarithm of what multiplies the cosine, or `None`.

    Raises:
        ValueError: If there is no such file, or embeddings are not finite, all 0, or of another shape.
    """
    scale = None
    if isinstance(source, (str, os.PathLike)):
        source, scale = _read_file(Path(source))
    if not isinstance(source, Tensor):
        raise ValueError(f"`class_embeddings` must be a tensor or a file, got {type(source).__name__}.")
    if source.ndim != 2 or source.shape[1] != size or not source.isfinite().all():
        raise ValueError(
            f"`class_embeddings` must be finite and of shape (classes, {size}), got {tuple(source.shape)}."
        )
    if empty := (~source.any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"`class_embeddings` must have a direction: those of classes {empty[:5]} are all 0.")
    return functional.normalize(source.detach().float(), dim=-1), scale


def write_class_embeddings(
    path: str | os.PathLike[str], embeddings: Tensor, logit_scale: float | None = None
) -> None:
    """Write class embeddings where `from_backbone` and `quee build` read them, in one step.

    Args:
        path: Of the safetensors file.
        embeddings: `(classes, size)`.
        logit_scale: Natural logarithm of what multiplies the cosine.
    """
    tensors = {_NAME: embeddings.detach().float().contiguous().cpu()}
    if logit_scale is not None:
        tensors[_SCALE] = torch.tensor(logit_scale)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.saving-{os.getpid()}")
    temporary.write_bytes(save(tensors))
    os.replace(temporary, target)


def check_class_names(names: Sequence[str]) -> list[str]:
    """Return class names as a list.

    Raises:
        ValueError: If they are not at least two different texts.
    """
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_list or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"Class names must be a list of texts, got {names!r}.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"Class names must differ from each other; {repeated[:5]} come more than once.")
    if len(names) < 2:
        raise ValueError(f"There must be at least two classes to choose from, got {list(names)}.")
    return list(names)


def choose_class_embeddings(
    names: Sequence[str],
    given: Tensor | str | os.PathLike[str] | None,
    present_names: Sequence[str],
    present: Tensor,
) -> Tensor:
    """Return the embeddings of classes that are to take the place of others.

    Args:
        names: Of the new classes.
        given: As `read_class_embeddings` takes them; `None` if all names are among the present ones.
        present_names: Of the classes that are there.
        present: Their embeddings, `(classes, size)`.

    Returns:
        `(names, size)`, of the kind of the present ones and where they are.

    Raises:
        ValueError: If there are not as many embeddings as names, or a name has none, or more than one.
    """
    if given is not None:
        embeddings, _ = read_class_embeddings(given, present.shape[1])
        if len(embeddings) != len(names):
            raise ValueError(f"There are {len(names)} names, but {len(embeddings)} `class_embeddings`.")
        return embeddings.to(present)
    counts, positions = Counter(present_names), {name: row for row, name in enumerate(present_names)}
    if wrong := [name for name in names if counts[name] != 1]:
        raise ValueError(
            f"The model has no classes {wrong[:5]}, or several of that name: give `class_embeddings`, a text"
            " embedding for each name."
        )
    return present[[positions[name] for name in names]]


def _read_file(path: Path) -> tuple[Tensor, float | None]:
    if not path.is_file():
        raise ValueError(f"`class_embeddings`: {path} is not a file.")
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            if _NAME not in keys:
                raise ValueError(f"{path} has no tensor {_NAME!r}, only {sorted(keys)}.")
            scale = file.get_tensor(_SCALE) if _SCALE in keys else None
            if scale is not None and (scale.numel() != 1 or not scale.isfinite().all()):
                raise ValueError(f"{path} must have one finite number as {_SCALE!r}, got {scale.tolist()}.")
            return file.get_tensor(_NAME), None if scale is None else float(scale)
    except SafetensorError as error:
        raise ValueError(f"`class_embeddings`: {path} is not a safetensors file: {error}.") from error
