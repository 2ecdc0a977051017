"""Damaged files, images and pixel values, as the tests in `tests/faults` do it, but thousands of times."""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.faults import jsons as json_files
from tests.faults import pictures, pixels, repositories, weights
from tests.faults.judging import Attack, Verdict, judge

from quee_hf.errors import BadImageError, IncompatibleCheckpointError

# Flipped bits of header and tensors each, damaged files of each kind of JSON, and of each format of images.
WEIGHTS, IMAGES = 1200, 500
JSONS = {"config.json": 1000, "router.json": 400, "done.json": 1000, "recipe.yaml": 100}


def _judged(attacks: Iterable[Attack], *allowed: type[Exception]) -> Iterator[Verdict]:
    for attack in attacks:
        yield judge(attack, allowed)


def _in_silence() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def of_weights() -> Iterator[Verdict]:
    """Damage weights."""
    _in_silence()
    with tempfile.TemporaryDirectory() as folder:
        victim = weights.Victim(Path(folder))
        yield from _judged(weights.random_damage(victim, WEIGHTS, seed=0), IncompatibleCheckpointError)
        yield from _judged(weights.crafted(victim), IncompatibleCheckpointError)


def of_jsons() -> Iterator[Verdict]:
    """Damage every file of JSON."""
    _in_silence()
    with tempfile.TemporaryDirectory() as folder:
        for reader in json_files.readers(Path(folder)):
            yield from json_files.judged(reader, JSONS[reader.name])


def of_images() -> Iterator[Verdict]:
    """Damage images, and read unusual ones."""
    _in_silence()
    yield from _judged(pictures.crafted(), BadImageError)
    yield from _judged(pictures.random_damage(IMAGES, seed=0), BadImageError)


def of_pixels() -> Iterator[Verdict]:
    """Classify what is no number."""
    _in_silence()
    yield from _judged(pixels.attacks())


def of_code() -> Iterator[Verdict]:
    """Load a repository that would run code."""
    with tempfile.TemporaryDirectory() as folder:
        for attack in repositories.attacks(Path(folder)):
            yield judge(attack, (), most_seconds=repositories.MOST_SECONDS)
