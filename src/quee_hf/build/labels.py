"""Names of classes: where they come from, and how the data's labels are matched with them."""

from collections.abc import Sequence

from quee_hf.data import LabelledImages, match_labels
from quee_hf.errors import BadDatasetError

_HINT = "If the classes are the same and in the same order, match them by number: --match-labels numbers."


def choose_class_names(
    given: Sequence[str] | None, own: Sequence[str] | None, num_classes: int, images: LabelledImages
) -> list[str]:
    """Return the names a model's classes get: those given, else its own, else the data's, else numbers.

    Args:
        given: By the user, as many as the model has classes.
        own: The model's; `None` if it has none but placeholders.
        num_classes: Of the model.
        images: Data that may name its classes.
    """
    for names in (given, own, images.class_names):
        if names is not None and len(names) == num_classes:
            return list(names)
    return [f"LABEL_{index}" for index in range(num_classes)]


def renamed_classes(of_data: Sequence[str] | None, names: Sequence[str]) -> bool:
    """Tell whether the data has other class names, but equally many."""
    return of_data is not None and len(of_data) == len(names) and sorted(of_data) != sorted(names)


def match_images(
    images: LabelledImages, class_names: Sequence[str], *, by: str, name: str, is_renaming: bool = False
) -> LabelledImages:
    """Return images whose labels mean what the model's classes mean.

    Args:
        images: Left as they are.
        class_names: Of the model's classes, in their order.
        by: "names": the names decide, as `quee_hf.data.match_labels` has it; "numbers": labels are taken as
            they are.
        name: What to call the images in an error.
        is_renaming: Whether the class names were given by hand: if the data has other names, but equally
            many, they are taken to be the same classes in the same order.

    Raises:
        BadDatasetError: If the classes differ; the message shows both sides.
    """
    is_renamed = renamed_classes(images.class_names, class_names)
    if by == "numbers" or (is_renaming and is_renamed):
        images = images.with_class_names(None)
    try:
        return match_labels(images, dict(enumerate(class_names)))
    except BadDatasetError as error:
        hint = f" {_HINT}" if by == "names" and is_renamed else ""
        raise BadDatasetError(f"{name}: {error}{hint}") from error
