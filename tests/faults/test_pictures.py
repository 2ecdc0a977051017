"""Image files end in an image or in `BadImageError`; `tests/test_images.py` has what is in them."""

import pytest
from tests.faults.judging import judge
from tests.faults.pictures import crafted, random_damage

from quee_hf import BadImageError


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what is damaged
def test_random_damage_does_no_harm():
    verdicts = [judge(attack, (BadImageError,)) for attack in random_damage(40, seed=1)]
    assert [verdict for verdict in verdicts if verdict.is_harm] == []


@pytest.mark.filterwarnings("ignore")
def test_unusual_files_give_the_picture_or_a_clear_error():
    verdicts = {attack.kind: judge(attack, (BadImageError,)) for attack in crafted()}
    assert [verdict for verdict in verdicts.values() if verdict.is_harm] == []
    refused = {kind for kind, verdict in verdicts.items() if verdict.outcome == "`BadImageError`"}
    assert refused == {
        "PNG of 50,000 x 50,000 pixels in 7 kB",
        "PNG with a comment of 100 MB",
        "PNG of 20,000 x 20,000 pixels",
        "nothing instead of an image",
        "text instead of an image",
        "an HTML page instead of an image",
    }
