"""Tests of `random_views`: every view is a part of its image, at its size."""

import torch
from tests.tiny import generator

from quee_hf.training.views import random_views


def ramps(count):
    """Images whose two channels say where a pixel is: from -1 to 1 over the columns, and over the rows."""
    steps = (torch.arange(32) * 2 + 1) / 32 - 1
    return torch.stack([steps.expand(32, 32), steps[:, None].expand(32, 32)]).repeat(count, 1, 1, 1)


def test_views_are_parts_of_the_image_some_of_them_mirrored():
    views = random_views(ramps(64), generator(0))
    columns, rows = views[:, 0, 16], views[:, 1, :, 16]
    directions = columns.diff(dim=1).mean(dim=1).sign()
    assert 16 < (directions < 0).sum() < 48  # half, by chance
    assert (rows.diff(dim=1) >= -1e-6).all()  # none upside down
    for lines in (columns, rows):
        sides = (lines.amax(dim=1) - lines.amin(dim=1)) / (2 - 2 / 32)
        assert sides.min() >= 0.6 - 1e-5
        assert sides.max() <= 1 + 1e-5
        assert sides.std() > 0.05


def test_views_of_a_constant_image_are_the_image():
    image = torch.randn(5, 3, 1, 1, generator=generator(1)).expand(5, 3, 16, 16)
    torch.testing.assert_close(random_views(image, generator(0)), image)


def test_the_generator_decides():
    pixel_values = torch.randn(4, 3, 16, 16, generator=generator(1))
    first, again, other = (random_views(pixel_values, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
