"""Make a dataset's labels mean what a model's labels mean."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from quee_hf.data.labelled_images import LabelledImages
from quee_hf.errors import BadDatasetError

_NUM_NAMED = 5  # how many classes of each side a message names


def match_labels(dataset: LabelledImages, id2label: Mapping[int, str]) -> LabelledImages:
    """Return the dataset with the labels a model means, or refuse.

    Names decide where both sides have them: in the model's order nothing changes, in another order (an image
    folder is sorted) the labels are renumbered. Folders named `0`, `1`, ... are the model's numbers. If the
    dataset has no names, or the model only `LABEL_0`, `LABEL_1`, ..., the numbers are taken as they are.

    Args:
        dataset: Left as it is.
        id2label: The model's `config.id2label`, keys 0, 1, ...

    Raises:
        BadDatasetError: If the classes differ in number or name; the message shows both sides. Where the same
            classes in the same order merely have other words, say so by `dataset.with_class_names(...)`.
    """
    wanted = [id2label[number] for number in range(len(id2label))]
    numbers = [str(number) for number in range(len(wanted))]
    present = dataset.class_names
    if present is None:
        highest = dataset.labels.max(initial=-1)
        if highest >= len(wanted):
            raise BadDatasetError(f"The model has {len(wanted)} classes, but the dataset a label {highest}.")
        return dataset
    if present == wanted or (len(present) == len(wanted) and _are_placeholders(wanted)):
        return dataset
    for names in (wanted, numbers):
        if len(set(names)) == len(names) and sorted(present) == sorted(names):
            new_label = np.array([names.index(name) for name in present], dtype=np.int64)
            return replace(dataset, labels=new_label[dataset.labels], class_names=wanted)
    raise BadDatasetError(
        f"The dataset's classes are not the model's: the dataset has {_described(present, wanted)}; "
        f"the model has {_described(wanted, present)}."
    )


def _are_placeholders(names: Sequence[str]) -> bool:
    """Tell whether these are the names that transformers gives when it knows none."""
    return list(names) == [f"LABEL_{number}" for number in range(len(names))]


def _described(names: Sequence[str], others: Sequence[str]) -> str:
    """Return one side of a mismatch: its classes, and which of them the other side lacks."""
    lacking = [name for name in names if name not in set(others)]
    return (
        f"{len(names)} ({_first_few(names)}), {len(lacking)} of them without a match ({_first_few(lacking)})"
    )


def _first_few(names: Sequence[str]) -> str:
    """Return the first names, and that there are more."""
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
