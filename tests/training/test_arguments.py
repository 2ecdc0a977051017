"""Tests of `recommended_arguments` and of adding early stopping."""

from types import SimpleNamespace

import pytest
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from quee_hf import QuEEConfig
from quee_hf.training.arguments import marked_as_trained, recommended_arguments, with_early_stopping


def test_they_keep_the_best_epoch_and_report_nowhere(tmp_path):
    args = recommended_arguments(str(tmp_path), use_cpu=True)
    assert isinstance(args, TrainingArguments)
    assert args.load_best_model_at_end
    assert args.metric_for_best_model == "loss"
    assert not args.greater_is_better
    assert args.report_to in ([], "none", ["none"])
    assert not args.remove_unused_columns


def test_any_field_can_be_overridden(tmp_path):
    args = recommended_arguments(str(tmp_path), use_cpu=True, learning_rate=0.5, load_best_model_at_end=False)
    assert args.learning_rate == 0.5
    assert not args.load_best_model_at_end
    with pytest.raises(TypeError, match="learning_rat"):
        recommended_arguments(str(tmp_path), learning_rat=0.5)


class TestWithEarlyStopping:
    @pytest.fixture
    def args(self, tmp_path):
        return recommended_arguments(str(tmp_path), use_cpu=True)

    def test_is_added_once_and_the_given_list_is_not_changed(self, args):
        given = [PrinterCallback()]
        callbacks = with_early_stopping(given, args, patience=3)
        assert len(given) == 1
        assert callbacks[0] is given[0]
        assert callbacks[1].early_stopping_patience == 3
        own = [EarlyStoppingCallback(9)]
        assert with_early_stopping(own, args, patience=3) == own
        assert len(with_early_stopping(None, args, patience=3)) == 1

    def test_is_not_added_if_the_best_model_is_not_kept(self, tmp_path):
        args = recommended_arguments(str(tmp_path), use_cpu=True, load_best_model_at_end=False)
        assert with_early_stopping(None, args, patience=3) == []


class TestMarkedAsTrained:
    POINTS = ({"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.9},)

    @pytest.fixture
    def model(self):
        config = QuEEConfig(
            trained_parts=["gates", "heads"],
            operating_points=list(self.POINTS),
            cost_lambda=0.1,
            record={"license": "mit", "measured": {"exits": []}},
        )
        return SimpleNamespace(config=config)

    @pytest.mark.parametrize(("part", "trained"), [("heads", ["heads"]), ("gates", ["gates", "heads"])])
    def test_what_was_measured_of_other_weights_is_forgotten(self, model, part, trained):
        with marked_as_trained(model, part, lambda: True):
            # Checkpoints are saved in between.
            assert model.config.operating_points is None
            assert model.config.trained_parts == trained
        assert model.config.trained_parts == trained
        assert model.config.operating_points is model.config.cost_lambda is None
        assert model.config.record == {"license": "mit"}

    def test_a_failure_before_the_first_step_changes_nothing(self, model):
        before = model.config.to_dict()
        with pytest.raises(KeyboardInterrupt), marked_as_trained(model, "heads", lambda: False):
            raise KeyboardInterrupt
        assert model.config.to_dict() == before

    @pytest.mark.parametrize(("part", "trained"), [("heads", []), ("gates", ["heads"])])
    def test_a_failure_after_a_step_leaves_the_part_untrained(self, model, part, trained):
        with pytest.raises(KeyboardInterrupt), marked_as_trained(model, part, lambda: True):
            raise KeyboardInterrupt
        assert model.config.trained_parts == trained
        assert model.config.operating_points is model.config.cost_lambda is None
