"""What both trainers promise: any `TrainingArguments` will do, and a training that fails leaves no mark."""

import pytest
from tests.tiny import routable
from tests.training.problem import arguments, noisy_copies
from transformers import TrainerCallback, TrainingArguments

from quee_hf import ExitHeadTrainer, GateTrainer, QuEEForImageClassification

BOTH = pytest.mark.parametrize(("trainer", "part"), [(ExitHeadTrainer, "heads"), (GateTrainer, "gates")])


@pytest.fixture
def model() -> QuEEForImageClassification:
    model = routable()
    model.config.trained_parts = []
    return model


@BOTH
@pytest.mark.parametrize("save_strategy", ["no", "epoch"])
def test_ordinary_training_arguments_do(model, tmp_path, trainer, part, save_strategy):
    fields = {"num_train_epochs": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    settings = TrainingArguments(str(tmp_path), save_strategy=save_strategy, **fields)
    data = noisy_copies(16)
    trainer(model, settings, train_dataset=data, eval_dataset=data).train()
    assert model.config.trained_parts == [part]
    assert settings.remove_unused_columns  # the caller's arguments are as they were


@BOTH
def test_a_training_that_fails_leaves_no_mark(model, tmp_path, trainer, part):
    class Fail(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            raise RuntimeError("no power")

    data = noisy_copies(16)
    failing = trainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data, callbacks=[Fail()])
    with pytest.raises(RuntimeError, match="no power"):
        failing.train()
    assert part not in model.config.trained_parts
