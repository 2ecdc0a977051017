"""`Ingredients`: what the stages of a build work with, loaded and checked before the first one starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from quee_hf.build.files import hash_file
from quee_hf.build.labels import choose_class_names, match_images, renamed_classes
from quee_hf.build.recipe import Recipe
from quee_hf.build.roles import TRAIN_SHARES, Parts, divide, validation_shares
from quee_hf.build.source import Source, is_local
from quee_hf.data import LabelledImages, count_shared_images, load_image_dataset
from quee_hf.errors import BadDatasetError
from quee_hf.modeling import QuEEForImageClassification

_MOST_SHARED = 0.1  # of the validation images; more is no accident


class ReadingPlan(Protocol):
    """What plans say of reading images."""

    @property
    def match_labels(self) -> str:
        """How labels are matched: "names" or "numbers"."""

    @property
    def skip_bad(self) -> bool:
        """Whether to leave out images that cannot be read."""


@dataclass(frozen=True)
class Ingredients:
    """A recipe with its model's config and its images.

    Args:
        recipe: Checked against the source.
        source: The classifier.
        class_names: Of the model to build.
        train: Labels as the model means them.
        validation: The same.
        device: Where the network runs.
        say: Shows one line to the user.
    """

    recipe: Recipe
    source: Source
    class_names: list[str]
    train: LabelledImages
    validation: LabelledImages
    device: torch.device
    say: Callable[[str], None]

    @cached_property
    def train_parts(self) -> Parts:
        """The training images, by role."""
        return divide(self.train, TRAIN_SHARES, self.recipe.seed, name="training")

    @cached_property
    def validation_parts(self) -> Parts:
        """The validation images, by role."""
        return divide(self.validation, validation_shares(self.recipe), self.recipe.seed, name="validation")

    @cached_property
    def fingerprints(self) -> dict[str, object]:
        """What the stages' hashes say of everything that is not in the recipe itself."""
        embeddings = self.recipe.class_embeddings
        return {
            "model": self.source.fingerprint,
            "class_names": self.class_names,
            "class_embeddings": None if embeddings is None else hash_file(_path(embeddings)),
            "train": self.train.fingerprint,
            "validation": self.validation.fingerprint,
        }


def check_paths(recipe: Recipe) -> None:
    """Refuse data that is not there, before anything is loaded.

    Raises:
        BadDatasetError: If a path does not exist; what looks like a dataset on the Hub is not looked up.
    """
    check_sources({"train": recipe.train, "validation": recipe.validation})


def check_sources(sources: Mapping[str, str]) -> None:
    """Refuse images that are not there, given the options that name them; as `check_paths`."""
    for option, source in sources.items():
        parts = [source] if _path(source).exists() else source.split(",")
        for part in (part.strip() for part in parts):
            if is_local(part.partition(":")[0]) and not _path(part).exists():
                raise BadDatasetError(f"`{option}`: {part or 'an empty name'} does not exist.")


def load_ingredients(
    recipe: Recipe, source: Source, device: torch.device, say: Callable[[str], None]
) -> Ingredients:
    """Load the images of a recipe, match their labels with the model's, and divide them among roles.

    Raises:
        BadDatasetError: If images cannot be read, classes differ, images are too few, or training and
            validation images are the same.
        ValueError: If there are fewer images for clusters than clusters.
    """
    validation, train = (
        read_images(path, say, skip_bad=recipe.skip_bad) for path in (recipe.validation, recipe.train)
    )
    names = choose_class_names(recipe.class_names, source.class_names, source.num_classes, train)
    renamed = recipe.class_names is not None
    _explain_names(recipe, source, names, train, say)
    train, validation = (
        match_images(images, names, by=recipe.match_labels, name=path, is_renaming=renamed)
        for images, path in ((train, recipe.train), (validation, recipe.validation))
    )
    _check_shared(train, validation, say)
    ingredients = Ingredients(recipe, source, names, train, validation, device, say)
    parts = {**ingredients.train_parts, **ingredients.validation_parts}
    if (recipe.num_clusters or 0) > len(parts.get("error clusters", ())):
        raise ValueError(
            f"`num_clusters` is {recipe.num_clusters}, but there are {len(parts['error clusters'])} images."
        )
    say("Roles: " + ", ".join(f"{len(part)} {role}" for role, part in parts.items()))
    return ingredients


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a GPU if there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"`device`: {name!r} cannot be used here.") from error
    return device


def _path(source: str) -> Path:
    return Path(source).expanduser()


def read_images(
    path: str, say: Callable[[str], None], *, skip_bad: bool, labelled: bool = True
) -> LabelledImages:
    """Load images and say which are left out."""
    say(f"Reading and checking {path}")
    images = load_image_dataset(path, skip_bad=skip_bad, labelled=labelled)
    for complaint in images.skipped:
        say(f"Left out: {complaint}")
    return images


def read_matching(
    path: str, model: QuEEForImageClassification, plan: ReadingPlan, say: Callable[[str], None]
) -> LabelledImages:
    """Load images for a model that is there, with labels as it means them."""
    images = read_images(path, say, skip_bad=plan.skip_bad)
    return match_images(images, model.config.class_names, by=plan.match_labels, name=path)


def _explain_names(
    recipe: Recipe, source: Source, names: list[str], train: LabelledImages, say: Callable[[str], None]
) -> None:
    """Say so where names are taken on trust."""
    of_data = train.class_names
    first = ", ".join(names[:3])
    if recipe.class_names is None and source.class_names is None and names == of_data:
        say(f"The model does not name its classes; they get the data's names, in this order: {first}, ...")
    elif renamed_classes(of_data, names) and recipe.class_names is not None and of_data is not None:
        say(f"The data's classes {', '.join(of_data[:3])}, ... are taken to be {first}, ..., in this order.")


def _check_shared(train: LabelledImages, validation: LabelledImages, say: Callable[[str], None]) -> None:
    shared = count_shared_images(train, validation)
    if shared > _MOST_SHARED * len(validation):
        raise BadDatasetError(
            f"{shared} of {len(validation)} validation images are training images, too: gates need images"
            " that the model has not seen."
        )
    if shared:
        say(f"Note: {shared} of {len(validation)} validation images are training images, too.")
