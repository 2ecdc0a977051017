"""The cards that the repository holds are what their configs render to."""

from pathlib import Path

import pytest

from quee_hf import QuEEConfig
from quee_hf.hub.card import render_card

FOLDERS = sorted((Path(__file__).parents[2] / "model_cards").iterdir())


def test_there_are_some():
    assert {folder.name for folder in FOLDERS} >= {"quee-clip-tinyimagenet", "quee-dinov2-cifar10"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_card_is_rendered_from_the_config(folder):
    config = QuEEConfig.from_pretrained(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == render_card(config)
    assert (folder / "operating_points.png").is_file()
    assert config.record["measured"]["test"]["num_images"] >= 1000
