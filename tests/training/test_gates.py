"""Tests of gate training: the loss against loops, and gates that learn what can be learned."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.reference.training import gate_loss as reference_gate_loss
from tests.tiny import NUM_LABELS, VARIANTS, generator, predict_errors, quantize_fast, randomize, wrap
from tests.training.problem import arguments, changed, noisy_copies, outputs, state
from tests.training.test_exit_heads import StopAfter

from quee_hf import ErrorTargets, GateTrainer, NotReadyError, QuEEForImageClassification
from quee_hf.diagnostics.calibration import error_auroc
from quee_hf.execution.path_outputs import collect_path_outputs, replay
from quee_hf.exits.reading import ExitReading
from quee_hf.training.gates import GateExamples, gate_arguments, gate_losses, gate_scores


def untrained(**fields):
    model = wrap(VARIANTS["vit"].build(), **{"levels": ["fp32", "bf16"], **fields})
    randomize(model.gates, seed=5, gain=0.5)
    return model


def trainer(model, folder, *, train=None, evaluation=None, callbacks=None, targets=None, **overrides):
    return GateTrainer(
        model,
        arguments(folder, **{"num_train_epochs": 8, "per_device_train_batch_size": 32, **overrides}),
        targets=targets,
        train_dataset=outputs(model, 256) if train is None else train,
        eval_dataset=outputs(model, 128, seed=1) if evaluation is None else evaluation,
        callbacks=callbacks,
    )


class TestGateLoss:
    @pytest.mark.parametrize("kind", ["outcome", "cluster"])
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"first_level": "any"},
            {"monotone_levels": False},
            {"max_paths": 4, "levels": ["fp32", "bf16", 8]},
        ],
        ids=str,
    )
    def test_equals_loops(self, kind, fields):
        model = untrained(**fields).double()
        num_images, num_paths = 3, len(model.paths)
        probabilities = torch.randn(num_images, num_paths, NUM_LABELS, generator=generator(0)).softmax(dim=-1)
        targets = torch.rand(num_images, num_paths, generator=generator(1))
        predicted, unknown = {}, torch.full((1, NUM_LABELS), 1 / NUM_LABELS)
        for image in range(num_images):
            for path in [(), *model.paths]:
                gate = len(path)
                if str(gate) not in model.gates:
                    continue
                at = {length: model.paths.index(path[:length]) for length in range(1, gate + 1)}
                current = probabilities[image, at[gate]][None] if gate else unknown
                previous = probabilities[image, at[gate - 1]][None] if gate > 1 else unknown
                errors = predict_errors(model, gate, current, previous)[0].tolist()
                scored = [other for other in model.paths if len(other) >= gate]
                predicted[image, gate, path] = dict(zip(scored, errors, strict=True))
        gates = [int(gate) for gate in model.gates]
        expected = reference_gate_loss(model.paths, gates, predicted, targets.numpy(), kind)
        # The reference sees error probabilities rounded to float32.
        summaries = model.summarize(ExitReading(probabilities.log(), torch.zeros(num_images, num_paths)))
        assert gate_losses(model, summaries, targets, kind).mean().item() == pytest.approx(expected, rel=1e-5)


class TestLearning:
    @pytest.mark.parametrize(
        "fields", [{}, {"gate_features": "probabilities"}, {"first_level": "any"}], ids=str
    )
    def test_loss_falls_and_errors_are_foreseen(self, fields, tmp_path):
        model = untrained(**fields)
        training = trainer(model, tmp_path)
        before = training.evaluate()["eval_loss"]
        training.train()
        assert training.evaluate()["eval_loss"] < 0.85 * before
        assert model.config.trained_parts == ["gates"]

        # Difficulty is uniform in [0, 4], so a path of length l is wrong with probability 1 - l / 4. Of 500 images the
        # share that is wrong varies by 0.02 (one sigma), and so does what 256 images teach: 4 sigma of both.
        test = outputs(model, 500, seed=2)
        longest = model.paths.index((0, 0, 0))
        routes = replay(model, test, torch.zeros(500))
        at_zero = torch.tensor([len(model.paths[node]) for node in routes.node]).float().mean()
        routes = replay(model, test, torch.full((500,), torch.inf))
        at_infinity = torch.tensor([len(model.paths[node]) for node in routes.node]).float().mean()
        assert at_infinity == 1 < at_zero
        depth_one = model.paths.index((0,))
        current = test.probabilities[:, depth_one]
        with torch.no_grad():
            errors = predict_errors(model, 1, current, current)
        first = model.router.tree.first_at_depth(1)
        for path in (depth_one, longest):
            rate = test.is_wrong[:, path].float().mean()
            assert errors[:, path - first].mean().item() == pytest.approx(rate.item(), abs=0.12)
        # Answers that are sure of themselves are right; among the unsure, chance decides: an order of about 0.9.
        wrong = test.is_wrong[:, depth_one]
        assert error_auroc(errors[:, depth_one - first].numpy(), wrong.numpy()) > 0.8

    def test_lra_gates_learn_what_their_features_tell(self, tmp_path):
        """As much as a logistic regression, though features differ a hundredfold in size."""
        model = untrained(gate_type="lra")

        def made(count, seed):
            found, noise = outputs(model, count, seed), torch.randn(count, 1, generator=generator(seed))
            return replace(found, variance=50 + 5 * noise + 3 * found.is_wrong.float())

        train, test = made(2000, 1), made(1000, 2)
        rates = gate_arguments("lra")
        trainer(model, tmp_path, train=train, evaluation=made(500, 3), **rates).train()
        for gate in model.gates.numbers:
            node = model.router.tree.exact_nodes[gate - 1]
            with torch.no_grad():
                scores = gate_scores(model, model.summarize(test.readings()))[:, gate - 1]
            known, unseen = (model.summarize(part.readings())[:, node].numpy() for part in (train, test))
            is_wrong = [part.is_wrong[:, node].numpy() for part in (train, test)]
            best = make_pipeline(StandardScaler(), LogisticRegression(C=1e4)).fit(known, is_wrong[0])
            expected = log_loss(is_wrong[1], best.predict_proba(unseen)[:, 1])
            assert log_loss(is_wrong[1], 1 - scores.numpy()) < 1.03 * expected

    def test_nothing_but_the_gates_changes(self, tmp_path):
        model = untrained()
        before = state(model)
        trainer(model, tmp_path, num_train_epochs=1).train()
        gates = {name for name in before if name.startswith("gates.")}
        assert changed(before, state(model)) == gates

    def test_clusters_teach_the_paths_error_in_each(self, tmp_path):
        model = untrained()
        targets = ErrorTargets.fit(model, outputs(model, 300, seed=3), num_clusters=5)
        training = trainer(model, tmp_path, targets=targets)
        before = training.evaluate()["eval_loss"]
        training.train()
        after = training.evaluate()["eval_loss"]
        assert after < 0.7 * before
        # Two gates, mean squared error each: far below that of a constant, some 0.1.
        assert after < 2 * 0.08


class TestData:
    def test_a_data_set_is_run_through_all_paths_once(self, tmp_path):
        model = untrained(levels=[8, 4])
        quantize_fast(model)
        items = noisy_copies(12)
        training = GateTrainer(model, arguments(tmp_path), train_dataset=items, eval_dataset=items)
        assert isinstance(training.train_dataset, GateExamples)
        expected = collect_path_outputs(model, items)
        assert torch.equal(training.train_dataset.summaries, model.summarize(expected.readings()))
        assert torch.equal(training.train_dataset.targets, expected.is_wrong.float())

    @pytest.mark.parametrize("kind", ["outcome", "cluster"])
    def test_a_data_set_and_its_collected_outputs_train_alike(self, kind, tmp_path):
        items, models = noisy_copies(24), (untrained(), untrained())
        collected = collect_path_outputs(models[0], items)
        targets = ErrorTargets.outcomes()
        if kind == "cluster":
            targets = ErrorTargets.fit(models[0], collected, num_clusters=3)
        for model, data in zip(models, (items, collected), strict=True):
            trainer(model, tmp_path, train=data, evaluation=data, targets=targets, num_train_epochs=2).train()
        assert not changed(*map(state, models))

    def test_an_unquantized_model_says_what_is_missing(self, tmp_path):
        model = untrained(levels=[8, 4])
        with pytest.raises(NotReadyError, match=r"call `quee_hf\.quantize` first"):
            GateTrainer(model, arguments(tmp_path), train_dataset=noisy_copies(4))

    def test_examples_by_hand(self):
        model = untrained()
        made = outputs(model, 6)
        examples = GateExamples(model.summarize(made.readings()), ErrorTargets.outcomes()(made))
        assert len(examples) == 6
        example = examples[2]
        assert torch.equal(
            example["summaries"], model.summarize(made.select(torch.tensor([2])).readings())[0]
        )
        assert torch.equal(example["labels"], (made.logits[2].argmax(dim=-1) != made.labels[2]).float())


class TestCheckpoints:
    def test_resuming_gives_the_same_result_as_training_without_a_break(self, tmp_path):
        whole, broken, resumed = untrained(), untrained(), untrained()
        trainer(whole, tmp_path / "whole").train()
        trainer(broken, tmp_path / "broken", callbacks=[StopAfter(3)]).train()
        assert changed(state(whole), state(broken))
        trainer(resumed, tmp_path / "broken").train(resume_from_checkpoint=True)
        assert not changed(state(whole), state(resumed))

    def test_stops_early_and_keeps_the_best_epoch(self, tmp_path):
        model = untrained()
        opposite = outputs(model, 128, seed=1)
        # Confident answers are wrong here: what the training images teach makes the loss rise.
        opposite = type(opposite)(*opposite.readings(), (opposite.labels + 2) % NUM_LABELS)
        training = trainer(model, tmp_path, evaluation=opposite, num_train_epochs=30)
        training.train()
        assert training.state.epoch < 30
        best = QuEEForImageClassification.from_pretrained(training.state.best_model_checkpoint)
        assert not changed(state(best), state(model))

    def test_what_is_saved_loads_and_routes(self, tmp_path):
        model = untrained()
        training = trainer(model, tmp_path / "run", num_train_epochs=1)
        training.train()
        training.save_model(str(tmp_path / "model"))
        loaded = QuEEForImageClassification.from_pretrained(tmp_path / "model")
        assert not changed(state(model), state(loaded))
        pixel_values = torch.stack([item["pixel_values"] for item in noisy_copies(3)])
        assert loaded(pixel_values, cost_lambda=0.2).error_probability.isfinite().all()
