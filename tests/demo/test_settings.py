"""Tests of `quee_hf.demo.settings`: a model offers what it can do, and says what it lacks."""

import math

import pytest
from tests.tiny import VARIANTS, wrap

from quee_hf.demo.settings import BUDGET, LAMBDA, PATH, Setting, choices_of, describe_levels
from quee_hf.errors import NotReadyError


def test_a_complete_model_offers_everything(classifier):
    choices = choices_of(classifier.model)
    assert choices.ways == (LAMBDA, BUDGET, PATH)
    assert choices.missing == ()
    assert choices.default_lambda == 0.1
    assert choices.most_lambda == 0.5  # what is beyond saves nothing
    assert choices.budgets == (0.25, 1.0)


def test_every_path_that_is_offered_runs(classifier):
    choices, model = choices_of(classifier.model), classifier.model
    known = {tuple(model.level_list[level] for level in path) for path in model.paths}
    assert known < set(choices.paths.values())
    assert {(level,) * 3 for level in model.level_list} < set(choices.paths.values())
    assert len(set(choices.paths)) == len(choices.paths.values())
    assert next(iter(choices.paths.values())) == (8, 8, 8)
    for levels in choices.paths.values():
        model.plan_route(**Setting(path=levels).arguments(model))


def test_a_model_without_gates_says_so_and_runs_paths(untrained):
    choices = choices_of(untrained.model)
    assert choices.ways == (PATH,)
    assert len(choices.missing) == 2
    assert "gates are not trained" in choices.missing[0]
    assert "no operating points" in choices.missing[1]


def test_gates_alone_give_a_lambda(classifier, monkeypatch):
    monkeypatch.setattr(classifier.config, "operating_points", None)
    choices = choices_of(classifier.model)
    assert choices.ways == (LAMBDA, PATH)
    assert len(choices.missing) == 1
    assert choices.most_lambda == 1.0


def test_integer_levels_need_codes():
    backbone = VARIANTS["vit"].build()
    choices = choices_of(wrap(backbone, levels=["fp32", 8]))
    assert set(choices.paths.values()) == {("fp32",) * length for length in (1, 2, 3)}
    with pytest.raises(NotReadyError, match="is not quantized, and its levels \\[8\\] need that"):
        choices_of(wrap(backbone, levels=[8]))


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        (Setting(cost_lambda=0.3), {"cost_lambda": 0.3, "path": None}),
        (Setting(target_cost=0.55), {"cost_lambda": 0.2, "path": None}),
        (Setting(target_cost=1.0), {"cost_lambda": 0.0, "path": None}),
        (Setting(path=(8, 6)), {"cost_lambda": None, "path": [8, 6]}),
        (Setting(), {"cost_lambda": None, "path": None}),
    ],
)
def test_a_setting_is_arguments_of_the_model(classifier, setting, arguments):
    assert setting.arguments(classifier.model) == arguments


def test_a_budget_that_cannot_be_met_is_refused(classifier):
    with pytest.raises(ValueError, match="below the cheapest operating point, 0.250"):
        Setting(target_cost=0.1).arguments(classifier.model)


def test_the_scale_of_lambda_is_never_empty(classifier, monkeypatch):
    points = [{"cost_lambda": 0.0, "cost": 0.5, "accuracy": 0.5}]
    monkeypatch.setattr(classifier.config, "operating_points", points)
    choices = choices_of(classifier.model)
    assert choices.most_lambda == 1.0
    assert choices.budgets == (0.5, 0.5)
    assert not math.isnan(choices.default_lambda)


def test_the_heading_names_exits_and_levels(classifier):
    assert (
        describe_levels(classifier.config) == "exits after blocks 1, 2 and 4; levels 8 bits, 6 bits, 4 bits"
    )
