"""`Setting`: the classifier and the images of a rescue experiment, loaded and checked before it starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch

from quee_hf.build.files import hash_file
from quee_hf.build.ingredients import check_sources, choose_device, read_images
from quee_hf.build.labels import choose_class_names, match_images
from quee_hf.build.recipe import Recipe
from quee_hf.build.rescue_plan import RescuePlan
from quee_hf.build.roles import TRAIN_SHARES, Parts, divide
from quee_hf.build.source import Source, complete_exits, open_source
from quee_hf.data import LabelledImages, count_shared_images
from quee_hf.diagnostics.versions import library_versions
from quee_hf.errors import BadDatasetError

_FORMAT = 1  # raised when what earlier versions kept must not be used again
_SEED = 0  # of the division of the training images


@dataclass(frozen=True)
class Setting:
    """What an experiment works with.

    Args:
        plan: Checked against the classifier.
        source: The classifier.
        exits: Blocks with an exit, counted from 1, the last block among them.
        class_names: In the order of the labels.
        parts: The training images, by role.
        validation: Labels as the classifier means them.
        test: The same.
        device: Where the network runs.
        say: Shows one line to the user.
    """

    plan: RescuePlan
    source: Source
    exits: tuple[int, ...]
    class_names: list[str]
    parts: Parts
    validation: LabelledImages
    test: LabelledImages
    device: torch.device
    say: Callable[[str], None]

    @property
    def image_sets(self) -> dict[str, LabelledImages]:
        """The images that every network runs on."""
        return {
            "train": self.parts["head training"],
            "stopping": self.parts["head early stopping"],
            "validation": self.validation,
            "test": self.test,
        }

    @property
    def num_images(self) -> dict[str, int]:
        """How many images play which role."""
        images = {**self.parts, "gates and operating points": self.validation, "test": self.test}
        return {role: len(part) for role, part in images.items()}

    @cached_property
    def fingerprint(self) -> str:
        """All that decides what a network gives for an image, but for how it is quantized."""
        plan = self.plan
        embeddings = None if plan.class_embeddings is None else hash_file(Path(plan.class_embeddings))
        facts = (self.source.fingerprint, embeddings, plan.logit_scale, self.exits, plan.level)
        calibration = (plan.calibration_images, self.parts["calibration images"].fingerprint)
        return repr((_FORMAT, *facts, *calibration, self.class_names, library_versions()))


def load_setting(plan: RescuePlan, say: Callable[[str], None]) -> Setting:
    """Load a plan's images and look at its classifier.

    Raises:
        QuEEError: If the classifier or the images cannot be used, or sets of images overlap.
        ValueError: If the plan does not fit the classifier.
    """
    check_sources({"train": plan.train, "validation": plan.validation, "data": plan.data})
    recipe = _as_recipe(plan)
    source, device = open_source(recipe), choose_device(plan.device)
    first, last = recipe.exits[0], recipe.exits[-1]
    if plan.budget < first / last:
        raise ValueError(
            f"`budget` {plan.budget} is below what the first exit costs, {first}/{last} of the network:"
            f" name at least {first / last:.3f}, or an earlier exit."
        )
    images = {
        name: read_images(getattr(plan, name), say, skip_bad=plan.skip_bad)
        for name in ("validation", "data", "train")
    }
    names = choose_class_names(plan.class_names, source.class_names, source.num_classes, images["train"])
    matched = {
        name: match_images(
            part,
            names,
            by=plan.match_labels,
            name=getattr(plan, name),
            is_renaming=plan.class_names is not None,
        )
        for name, part in images.items()
    }
    _refuse_shared(matched)
    train = matched["train"].spread(plan.num_train_images)
    parts = divide(train, TRAIN_SHARES, _SEED, name="training")
    if len(parts["calibration images"]) < plan.calibration_images:
        say(f"Only {len(parts['calibration images'])} calibration images, of {plan.calibration_images}")
    return Setting(
        plan, source, recipe.exits, names, parts, matched["validation"], matched["data"], device, say
    )


def _as_recipe(plan: RescuePlan) -> Recipe:
    """Return a build's recipe of the same classifier: its checks are those that are needed here."""
    recipe = Recipe(
        model=plan.model,
        train=plan.train,
        validation=plan.validation,
        exits=plan.exits or (1,),
        levels=(plan.level,),
        class_embeddings=plan.class_embeddings,
        class_names=plan.class_names,
        logit_scale=plan.logit_scale,
        head="ssa",
        gate="lra",
    )
    completed = complete_exits(recipe)
    if plan.exits is not None:
        return completed
    last = completed.exits[-1]
    chosen = tuple(range(max(1, last // 2), last + 1))
    return replace(recipe, exits=chosen)


def _refuse_shared(images: Mapping[str, LabelledImages]) -> None:
    for (first, ours), (second, theirs) in combinations(images.items(), 2):
        if shared := count_shared_images(ours, theirs):
            raise BadDatasetError(
                f"{shared} images are both in `{first}` and in `{second}`: each image may play one role only."
            )
