"""Tests of what a card says of times."""

import pytest
from tests.profiles import make_profile
from tests.tiny import routable

from quee_hf.hub.card import render_card
from quee_hf.hub.times import timed_paths, times_section, where_measured


@pytest.fixture
def config():
    config = routable(levels=[8, 4]).config
    config.record = {"profile": make_profile(3, 2)}
    return config


def test_nothing_without_times(config):
    config.record = None
    assert times_section(config, None) == ""
    assert timed_paths(config) == []


def test_paths_are_every_exit_and_every_other_level(config):
    rows = timed_paths(config)
    assert [row["path"] for row in rows] == [[8], [8, 8], [8, 8, 8], [4, 4, 4]]
    assert [row["exit_block"] for row in rows] == [1, 2, 4, 4]
    # Embedding 1, segments of 1 + 2 + 3 ms, three exits of 0.5, two decisions of 0.25; twice that alone.
    assert rows[2]["ms"] == [18.0, 9.0]
    assert rows[3]["ms"] == [12.0, 6.0]


def test_the_card_shows_them_and_where(config):
    card = render_card(config)
    assert "## Time" in card
    assert "at least 7 runs: engine torch, 1 thread, Abacus 9000 (beads), quee_hf 0.1.0, 2026-01-31." in card
    assert "| all images on | block | ms at batch 1 | ms at batch 4 |" in card
    assert "| 8 → 8 → 8 | 4 | 18.000 | 9.000 |" in card
    assert "heads and gates are not counted" in card


def test_costs_by_time_count_exits(config):
    config.cost_table, config.cost_model = [[2.0, 1.0]] * 3, "latency"
    assert "`latency`: measured time of the blocks, relative to the dearest path. Heads and gates are" in (
        render_card(config)
    )


def test_points_with_times_show_them(config):
    point = {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9, "num_images": 10, "latency_ms": 2.5}
    config.operating_points = [point]
    assert "| 0.1 | 0.500 | 2.500 | 90.0%" in render_card(config)


def test_a_machine_of_which_little_is_known():
    profile = make_profile(1, 1, machine={"processor": "Abacus", "instruction_sets": []}, threads=4)
    assert where_measured(profile) == "engine torch, 4 threads, Abacus"
