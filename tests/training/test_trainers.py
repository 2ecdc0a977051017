"""Tests of both trainers on a small problem: what changes, what stays, stopping early, resuming."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from quee_hf import (
    ErrorTargets,
    ExitHeadTrainer,
    GateTrainer,
    QuEEForImageClassification,
    quantize,
    recommended_arguments,
)
from quee_hf.execution.path_outputs import PathOutputs

NUM_CLASSES = 3


def coloured_images(count: int, seed: int) -> list[dict[str, Tensor | int]]:
    """Noise on one of three colours; the label is the colour."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=random)
    noise = torch.randn(count, 3, 16, 16, generator=random)
    pixels = noise + torch.nn.functional.one_hot(labels, 3)[:, :, None, None]
    return [{"pixel_values": x, "labels": int(y)} for x, y in zip(pixels, labels, strict=True)]


@pytest.fixture
def model() -> QuEEForImageClassification:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**size, image_size=16, patch_size=8, num_labels=NUM_CLASSES)
    backbone = ViTForImageClassification(config)
    return QuEEForImageClassification.from_backbone(backbone, exit_blocks=[1, 2, 3], levels=[8, 4])


@pytest.fixture
def routable(model) -> QuEEForImageClassification:
    quantize(model, torch.stack([item["pixel_values"] for item in coloured_images(16, 9)]))
    return model


def arguments(folder, **fields) -> TrainingArguments:
    fields = {"num_train_epochs": 4, "per_device_train_batch_size": 16, **fields}
    return recommended_arguments(str(folder), disable_tqdm=True, use_cpu=True, **fields)


def head_trainer(model, folder, **fields) -> ExitHeadTrainer:
    data = {"train_dataset": coloured_images(64, 1), "eval_dataset": coloured_images(32, 2)}
    return ExitHeadTrainer(model, arguments(folder, **fields), **data)


def gate_trainer(model, folder, targets=None, **fields) -> GateTrainer:
    data = {"train_dataset": coloured_images(64, 3), "eval_dataset": coloured_images(32, 4)}
    return GateTrainer(model, arguments(folder, **fields), targets=targets, **data)


def changed(model, before: dict[str, Tensor]) -> set[str]:
    """Return the first part of every tensor's name that is not what it was."""
    after = model.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def weights(model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestHeads:
    def test_only_heads_but_the_last_change_and_the_loss_falls(self, model, tmp_path):
        trainer = head_trainer(model, tmp_path)
        before, loss = weights(model), trainer.evaluate()["eval_loss"]
        trainer.train()
        assert changed(model, before) == {"heads"}
        assert torch.equal(before["heads.2.network.weight"], model.state_dict()["heads.2.network.weight"])
        assert trainer.evaluate()["eval_loss"] < loss
        assert model.config.trained_parts == ["heads"]

    def test_accuracy_of_each_trained_exit_is_reported(self, model, tmp_path):
        metrics = head_trainer(model, tmp_path).evaluate()
        assert {"eval_accuracy_exit_1", "eval_accuracy_exit_2"} <= set(metrics)
        assert "eval_accuracy_exit_3" not in metrics

    def test_cached_features_give_what_running_the_backbone_gives(self, model, tmp_path):
        other, data = copy.deepcopy(model), coloured_images(32, 1)
        for part, caches in ((model, True), (other, False)):
            settings = arguments(tmp_path / str(caches), eval_strategy="no", load_best_model_at_end=False)
            ExitHeadTrainer(part, settings, train_dataset=data, cache_features=caches).train()
        for ours, theirs in zip(model.heads.parameters(), other.heads.parameters(), strict=True):
            # Features of other batch sizes differ by float32 roundings; 8 steps of 1e-3 hardly amplify them.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)

    def test_resuming_gives_what_an_uninterrupted_training_gives(self, model, tmp_path):
        class Stop(TrainerCallback):
            def on_epoch_end(self, args, state, control: TrainerControl, **_) -> None:
                control.should_training_stop = state.epoch >= 2

        other, fields = copy.deepcopy(model), {"load_best_model_at_end": False}
        head_trainer(model, tmp_path / "whole", **fields).train()
        interrupted = head_trainer(other, tmp_path / "parts", **fields)
        interrupted.add_callback(Stop)
        interrupted.train()
        head_trainer(other, tmp_path / "parts", **fields).train(resume_from_checkpoint=True)
        for ours, theirs in zip(model.heads.parameters(), other.heads.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_early_stopping(self, model, tmp_path):
        trainer = head_trainer(model, tmp_path, num_train_epochs=50, learning_rate=0.0)
        trainer.train()
        assert trainer.state.epoch == 1 + 5  # nothing improves after the first epoch; patience is 5

    def test_what_is_saved_can_be_loaded(self, model, tmp_path):
        trainer = head_trainer(model, tmp_path / "run")
        trainer.train()
        trainer.save_model(str(tmp_path / "model"))
        loaded = QuEEForImageClassification.from_pretrained(tmp_path / "model")
        assert loaded.config.trained_parts == ["heads"]
        assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())

    def test_a_model_with_one_exit_has_nothing_to_train(self, tmp_path):
        config = ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
        )
        vit = ViTForImageClassification(config)
        model = QuEEForImageClassification.from_backbone(vit, exit_blocks=[1], levels=["fp32"])
        with pytest.raises(ValueError, match="no heads to train"):
            ExitHeadTrainer(model, arguments(tmp_path), train_dataset=coloured_images(4, 0))

    def test_a_plain_loop_on_forward_trains_the_heads_too(self, model):
        before, items = weights(model), coloured_images(16, 1)
        model.train()
        pixels, labels = (
            torch.stack([i["pixel_values"] for i in items]),
            torch.tensor([i["labels"] for i in items]),
        )
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
        assert changed(model, before) == {"heads"}


@pytest.mark.parametrize("kind", ["outcome", "cluster"])
class TestGates:
    def targets(self, model, kind) -> ErrorTargets:
        if kind == "outcome":
            return ErrorTargets.outcomes()
        return ErrorTargets.fit(model, coloured_images(40, 5), num_clusters=4)

    def test_only_gates_change_and_the_loss_falls(self, routable, tmp_path, kind):
        trainer = gate_trainer(routable, tmp_path, self.targets(routable, kind), learning_rate=1e-2)
        before, loss = weights(routable), trainer.evaluate()["eval_loss"]
        trainer.train()
        assert changed(routable, before) == {"gates"}
        assert trainer.evaluate()["eval_loss"] < loss
        assert routable.config.trained_parts == ["gates"]

    def test_images_and_their_outputs_train_alike(self, routable, tmp_path, kind):
        from quee_hf.execution.path_outputs import collect_path_outputs

        other, data = copy.deepcopy(routable), coloured_images(32, 3)
        targets = self.targets(routable, kind)
        outputs = collect_path_outputs(routable, data)
        assert isinstance(outputs, PathOutputs)
        for part, given in ((routable, data), (other, outputs)):
            settings = arguments(tmp_path, eval_strategy="no", load_best_model_at_end=False)
            GateTrainer(part, settings, targets=targets, train_dataset=given).train()
        for ours, theirs in zip(routable.gates.parameters(), other.gates.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_trained_gates_route(routable, tmp_path):
    gate_trainer(routable, tmp_path).train()
    routable.eval()
    pixels = torch.stack([item["pixel_values"] for item in coloured_images(8, 6)])
    output = routable(pixels, cost_lambda=0.1)
    assert ((output.error_probability > 0) & (output.error_probability < 1)).all()
    points = routable.fit_operating_points(coloured_images(20, 7), lambdas=[0.0, 1.0])
    assert [point["cost_lambda"] for point in points] == [0.0, 1.0]
