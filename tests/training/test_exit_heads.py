"""Tests of `ExitHeadTrainer` on a problem that heads can learn."""

import math

import pytest
import torch
from tests.tiny import VARIANTS, quantize_fast, randomize, wrap
from tests.training.problem import arguments, changed, mislabelled, noisy_copies, state
from transformers import Trainer, TrainerCallback

from quee_hf import ExitHeadTrainer, QuEEForImageClassification
from quee_hf.exits.heads import HEADS
from quee_hf.training.exit_heads import (
    ExitFeatures,
    collect_exit_features,
    collect_pooled,
    last_outputs,
    select_trainable_exits,
)

TRAIN, EVALUATION = noisy_copies(60), noisy_copies(30, seed=1)
HEAD_WEIGHTS = {f"heads.{i}.network.{part}" for i in (0, 1) for part in ("weight", "bias")}


def untrained(**fields):
    model = wrap(VARIANTS["vit"].build(), **fields)
    randomize(model.heads[:-1], seed=1, gain=0.1)
    return model


def trainer(
    model,
    folder,
    *,
    evaluation=EVALUATION,
    callbacks=None,
    cache_features=True,
    teacher=None,
    patience=5,
    **overrides,
):
    return ExitHeadTrainer(
        model,
        arguments(folder, **overrides),
        train_dataset=TRAIN,
        eval_dataset=evaluation,
        callbacks=callbacks,
        cache_features=cache_features,
        teacher=teacher,
        early_stopping_patience=patience,
    )


class StopAfter(TrainerCallback):
    """As if the process had been stopped after an epoch, with its checkpoint written."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch >= self.epoch


class TestLearning:
    @pytest.mark.parametrize("head_type", HEADS)
    def test_loss_falls_and_all_exits_learn(self, head_type, tmp_path):
        model = untrained(head_type=head_type, head_hidden_size=16)
        training = trainer(model, tmp_path, num_train_epochs=12)
        before = training.evaluate()
        training.train()
        after = training.evaluate()
        # At first, five equally likely classes: ln 5 each, the first exit twice, the second once.
        assert before["eval_loss"] == pytest.approx(3 * math.log(5), rel=0.2)
        assert after["eval_loss"] < before["eval_loss"] / 2
        assert after["eval_accuracy_exit_1"] > 0.9
        assert after["eval_accuracy_exit_2"] > 0.9
        assert model.config.trained_parts == ["heads"]

    def test_nothing_but_the_heads_changes(self, tmp_path):
        model = untrained()
        before = state(model)
        trainer(model, tmp_path, num_train_epochs=2).train()
        assert changed(before, state(model)) == HEAD_WEIGHTS

    def test_a_quantized_model_learns_at_its_most_exact_level(self, tmp_path):
        model = untrained(levels=[8, 4])
        quantize_fast(model)
        before = state(model)
        training = trainer(model, tmp_path)
        first = training.evaluate()["eval_loss"]
        training.train()
        assert training.evaluate()["eval_loss"] < first / 2
        assert changed(before, state(model)) == HEAD_WEIGHTS
        pixel_values = torch.stack([item["pixel_values"] for item in EVALUATION])
        labels = torch.tensor([item["labels"] for item in EVALUATION])
        logits = model.eval()(pixel_values, path=(8,)).logits
        assert (logits.argmax(dim=-1) == labels).float().mean() > 0.9

    def test_clip_learns_embeddings(self, tmp_path):
        model = wrap(VARIANTS["clip-vision"].build())
        small = [{**item, "pixel_values": item["pixel_values"][:, :30, :30]} for item in TRAIN]
        training = ExitHeadTrainer(model, arguments(tmp_path), train_dataset=small, eval_dataset=small)
        before = training.evaluate()["eval_loss"]
        training.train()
        assert training.evaluate()["eval_loss"] < before / 2

    def test_a_plain_trainer_trains_the_same_parts(self, tmp_path):
        model = untrained()
        before = state(model)
        args = arguments(tmp_path, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
        result = Trainer(model, args, train_dataset=TRAIN).train()
        losses = [entry["loss"] for entry in result.metrics.get("log_history", [])] or [result.training_loss]
        assert all(math.isfinite(loss) for loss in losses)
        assert changed(before, state(model)) == HEAD_WEIGHTS


class TestFeatures:
    def test_are_what_the_heads_read_on_the_way_through_the_network(self):
        model = untrained()
        features = collect_exit_features(model, EVALUATION, batch_size=7)
        pixel_values = torch.stack([item["pixel_values"] for item in EVALUATION])
        assert features.selected.shape == (30, 2, 32)
        assert features.labels.tolist() == [item["labels"] for item in EVALUATION]
        with torch.no_grad():
            for exit_index in (0, 1):
                logits = model.as_logits(model.heads[exit_index](features.selected[:, exit_index]))
                expected = model(pixel_values, path=("fp32",) * (exit_index + 1)).logits
                torch.testing.assert_close(
                    logits, expected, rtol=1e-5, atol=1e-5
                )  # other batches: float32 sums

    def test_of_heads_that_read_all_tokens_are_kept_in_half_precision(self):
        model = untrained(head_type="attention").eval()
        features = collect_exit_features(model, EVALUATION, batch_size=7)
        pixel_values = torch.stack([item["pixel_values"] for item in EVALUATION])
        expected = select_trainable_exits(model, pixel_values)
        assert features.selected.dtype == torch.float16
        assert features[3]["selected"].dtype == torch.float32
        # Half precision: 2**-11 of each number; other batches: float32 sums.
        torch.testing.assert_close(features.selected.float(), expected, rtol=2**-10, atol=1e-5)
        pooled = collect_pooled(model, EVALUATION, batch_size=7)
        with torch.no_grad():
            rows = torch.stack([model.heads[i].pool(expected[:, i]) for i in (0, 1)], dim=1)
        torch.testing.assert_close(pooled[0], rows, rtol=1e-4, atol=1e-5)
        # What learned queries find stands behind the class token and the mean patch.
        torch.testing.assert_close(pooled[1], rows[..., : pooled[1].shape[-1]], rtol=1e-4, atol=1e-5)

    def test_views_follow_the_images_as_they_are(self):
        model = untrained()
        once = collect_exit_features(model, EVALUATION, teacher=model)
        thrice = collect_exit_features(model, EVALUATION, teacher=model, num_views=3, batch_size=7)
        count = len(once)
        assert len(thrice) == 3 * count
        torch.testing.assert_close(thrice.selected[:count], once.selected, rtol=1e-5, atol=1e-5)
        assert torch.equal(thrice.labels, once.labels.repeat(3))
        for part in (thrice.selected, thrice.teacher):
            views = part.unflatten(0, (3, count))
            assert not torch.allclose(views[1], views[0])
            assert not torch.allclose(views[2], views[1])

    def test_an_empty_data_set_is_refused(self):
        with pytest.raises(ValueError, match="data set is empty"):
            collect_exit_features(untrained(), [])

    @pytest.mark.parametrize("has_teacher", [False, True])
    def test_training_on_the_fly_gives_the_same_heads(self, has_teacher, tmp_path):
        heads = []
        for cache_features in (True, False):
            model = untrained()
            training = trainer(
                model,
                tmp_path / str(cache_features),
                cache_features=cache_features,
                teacher=model if has_teacher else None,
            )
            assert isinstance(training.train_dataset, ExitFeatures) == cache_features
            training.train()
            heads.append(
                torch.cat([parameter.detach().flatten() for parameter in model.heads[:-1].parameters()])
            )
        # Other batches, other order of sums: differences of 1e-7, which 24 steps of 1e-2 do not blow up.
        torch.testing.assert_close(*heads, rtol=0, atol=1e-3)

    def test_collected_features_can_be_given(self, tmp_path):
        model = untrained()
        features = collect_exit_features(model, TRAIN)
        args = arguments(tmp_path, num_train_epochs=1)
        training = ExitHeadTrainer(model, args, train_dataset=features, eval_dataset=features)
        assert training.train_dataset is features
        training.train()

    def test_no_gradient_reaches_the_backbone(self):
        pixel_values = torch.stack([item["pixel_values"] for item in EVALUATION[:2]])
        assert not select_trainable_exits(untrained(), pixel_values).requires_grad


class TestDistillation:
    @pytest.mark.parametrize("variant", ["vit", "clip-vision"])
    @pytest.mark.parametrize("distillation", ["soft", "cosine"])
    def test_draws_heads_to_the_last_exit_of_the_full_precision_network(
        self, distillation, variant, tmp_path
    ):
        cosines = {}
        for has_teacher in (False, True):
            model = wrap(VARIANTS[variant].build(), head_type="ssa")
            size = VARIANTS[variant].image_size
            items = [{**item, "pixel_values": item["pixel_values"][:, :size, :size]} for item in TRAIN]
            teacher = model if has_teacher else None
            args = arguments(tmp_path / str(has_teacher))
            ExitHeadTrainer(
                model,
                args,
                train_dataset=items,
                eval_dataset=items,
                teacher=teacher,
                distillation=distillation,
            ).train()
            pixel_values = torch.stack([item["pixel_values"] for item in items])
            wanted, read = (
                last_outputs(model.eval(), pixel_values),
                select_trainable_exits(model, pixel_values),
            )
            with torch.no_grad():
                found = torch.stack([model.heads[i](read[:, i]) for i in range(read.shape[1])], dim=1)
            cosines[has_teacher] = torch.cosine_similarity(found, wanted[:, None], dim=-1).mean(dim=0)
        assert (cosines[True] > cosines[False] + 0.1).all()

    def test_the_teacher_is_another_model_where_one_is_given(self):
        model, teacher = untrained(), untrained()
        with torch.no_grad():
            teacher.heads[-1].network.weight.mul_(2)
        features = collect_exit_features(model, EVALUATION[:3], teacher=teacher)
        pixel_values = torch.stack([item["pixel_values"] for item in EVALUATION[:3]])
        torch.testing.assert_close(features.teacher, teacher(pixel_values).logits)
        assert not torch.allclose(features.teacher, model(pixel_values).logits)
        assert set(features[0]) == {"selected", "labels", "teacher"}


class TestStoppingEarly:
    def test_stops_when_the_evaluation_loss_rises_and_keeps_the_best_epoch(self, tmp_path):
        model = untrained()
        training = trainer(
            model, tmp_path, evaluation=mislabelled(EVALUATION), patience=2, num_train_epochs=20
        )
        training.train()
        # Better and better on the training images is worse and worse here: the first epoch is the best.
        assert training.state.epoch == 3
        best = QuEEForImageClassification.from_pretrained(training.state.best_model_checkpoint)
        assert training.state.best_model_checkpoint.endswith("checkpoint-4")  # 60 images, 16 at a time
        assert not changed(state(best), state(model))

    def test_stops_when_nothing_improves(self, tmp_path):
        training = ExitHeadTrainer(
            untrained(),
            arguments(tmp_path, num_train_epochs=50, learning_rate=0.0),
            train_dataset=TRAIN,
            eval_dataset=EVALUATION,
        )
        training.train()
        assert training.state.epoch == 1 + 5  # nothing improves after the first epoch; patience is 5

    def test_runs_to_the_end_if_the_best_model_is_not_kept(self, tmp_path):
        training = trainer(
            untrained(),
            tmp_path,
            evaluation=mislabelled(EVALUATION),
            patience=1,
            load_best_model_at_end=False,
        )
        training.train()
        assert training.state.epoch == 6


class TestResuming:
    def test_gives_the_same_result_as_training_without_a_break(self, tmp_path):
        whole, broken, resumed = untrained(), untrained(), untrained()
        trainer(whole, tmp_path / "whole").train()
        trainer(broken, tmp_path / "broken", callbacks=[StopAfter(3)]).train()
        assert changed(state(whole), state(broken))
        trainer(resumed, tmp_path / "broken").train(resume_from_checkpoint=True)
        assert not changed(state(whole), state(resumed))


def test_what_is_saved_loads_as_a_model(tmp_path):
    model = untrained()
    training = trainer(model, tmp_path / "run", num_train_epochs=1)
    training.train()
    training.save_model(str(tmp_path / "model"))
    loaded = QuEEForImageClassification.from_pretrained(tmp_path / "model")
    assert not changed(state(model), state(loaded))
    assert loaded.config.trained_parts == ["heads"]


def test_a_single_exit_has_nothing_to_train(tmp_path):
    with pytest.raises(ValueError, match="one exit, the backbone's own head: there are no heads to train"):
        ExitHeadTrainer(untrained(exit_blocks=[4]), arguments(tmp_path), train_dataset=TRAIN)
