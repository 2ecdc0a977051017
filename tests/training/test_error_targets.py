"""Tests of `ErrorTargets`, Eq. (10) to (12), against loops."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from tests.reference.training import cluster_error, nearest
from tests.tiny import VARIANTS, generator, wrap
from tests.training.problem import noisy_copies, outputs

from quee_hf import ErrorTargets
from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.training.error_targets import choose_num_clusters


@pytest.fixture(scope="module")
def model():
    return wrap(VARIANTS["vit"].build(), levels=["fp32", "bf16"], exit_blocks=[2, 4])


@pytest.fixture(scope="module")
def validation(model):
    return outputs(model, 120)


def test_outcomes_are_each_images_own(validation):
    targets = ErrorTargets.outcomes()
    assert targets.kind == "outcome"
    result = targets(validation)
    assert result.dtype == torch.float32
    assert torch.equal(result, (validation.logits.argmax(dim=-1) != validation.labels[:, None]).float())


class TestClusters:
    @pytest.mark.parametrize("num_clusters", [1, 4, 10])
    def test_equal_a_loop(self, model, validation, num_clusters):
        targets = ErrorTargets.fit(model, validation, num_clusters=num_clusters)
        assert targets.kind == "cluster"
        others = outputs(model, 40, seed=5)
        result = targets(others)
        assert result.shape == (40, len(model.paths))
        for path, part in enumerate(targets.clusters):
            centers = part.kmeans.cluster_centers_
            assigned = nearest(validation.probabilities[:, path].numpy(), centers)
            errors = cluster_error(assigned, validation.is_wrong[:, path].tolist(), num_clusters)
            np.testing.assert_allclose(part.error.numpy(), errors, rtol=1e-6)
            expected = [errors[k] for k in nearest(others.probabilities[:, path].numpy(), centers)]
            np.testing.assert_allclose(result[:, path].numpy(), expected, rtol=1e-6)

    def test_one_cluster_is_the_paths_error(self, model, validation):
        # Shrinking the share of all towards itself changes nothing.
        result = ErrorTargets.fit(model, validation, num_clusters=1)(validation)
        torch.testing.assert_close(result, validation.is_wrong.float().mean(dim=0).expand(120, -1))

    def test_a_tiny_cluster_is_shrunk_by_hand(self, model):
        # Nine images alike, one wrong; one apart, wrong. Path error 0.2.
        logits = torch.tensor([[9.0, 0, 0, 0, 0]] * 9 + [[0, 9.0, 0, 0, 0]])[:, None].expand(
            -1, len(model.paths), -1
        )
        noise = 1e-3 * torch.randn(10, len(model.paths), 5, generator=generator(0))
        labels = torch.tensor([0] * 8 + [1, 0])
        made = PathOutputs(logits + noise, logits[..., 0], labels)
        result = ErrorTargets.fit(model, made, num_clusters=2)(made)
        assert result[0].tolist() == pytest.approx([(1 + 0.2) / (9 + 1)] * len(model.paths))
        assert result[9].tolist() == pytest.approx([(1 + 0.2) / (1 + 1)] * len(model.paths))

    def test_an_empty_cluster_takes_the_paths_error(self, model):
        logits = torch.zeros(8, len(model.paths), 5)
        logits[:4, :, 1] = 5.0
        made = PathOutputs(logits, logits[..., 0], torch.tensor([1, 1, 1, 0, 0, 0, 0, 1]))
        with pytest.warns(ConvergenceWarning, match="Number of distinct clusters"):
            targets = ErrorTargets.fit(model, made, num_clusters=3)
        for part in targets.clusters:
            assert part.error.isfinite().all()
            assert ((part.error >= 0) & (part.error <= 1)).all()

    def test_are_probabilities_and_repeatable(self, model, validation):
        first, again = (
            ErrorTargets.fit(model, validation, num_clusters=8, seed=3)(validation) for _ in range(2)
        )
        assert torch.equal(first, again)
        assert ((first > 0) & (first < 1)).all()

    def test_a_data_set_is_run_through_all_paths(self, model):
        items = noisy_copies(20)
        from_items = ErrorTargets.fit(model, items, num_clusters=3)
        collected = collect_path_outputs(model, items)
        assert torch.equal(
            from_items(collected), ErrorTargets.fit(model, collected, num_clusters=3)(collected)
        )

    @pytest.mark.parametrize("num_clusters", [0, -1, 121])
    def test_more_clusters_than_images_are_refused(self, model, validation, num_clusters):
        with pytest.raises(
            ValueError, match=f"`num_clusters` must be 1 to 120, the number of images, got {num_clusters}"
        ):
            ErrorTargets.fit(model, validation, num_clusters=num_clusters)


class TestChoosingTheNumber:
    def test_the_candidate_nearest_to_the_held_out_outcomes_wins(self, model, validation):
        candidates = [1, 3, 12]
        order = torch.randperm(120, generator=generator(0))
        fitted, held_out = validation.select(order[::2]), validation.select(order[1::2])
        errors = []
        for count in candidates:
            targets = ErrorTargets.fit(model, fitted, num_clusters=count)(held_out).numpy()
            errors.append(np.mean((targets - held_out.is_wrong.numpy()) ** 2))
        assert choose_num_clusters(validation, candidates) == candidates[int(np.argmin(errors))]

    def test_one_cluster_knows_least_however_well_it_is_calibrated(self, model):
        assert choose_num_clusters(outputs(model, 1000), [1, 20]) == 20

    def test_is_repeatable(self, model, validation):
        assert choose_num_clusters(validation, [1, 3, 12]) == choose_num_clusters(validation, [1, 3, 12])

    def test_never_more_than_the_images_of_a_half(self, model):
        assert choose_num_clusters(outputs(model, 13), [2, 8, 50]) in (2,)
        assert choose_num_clusters(outputs(model, 4), [5, 10]) == 1

    def test_is_what_fit_uses(self, model, validation):
        targets = ErrorTargets.fit(model, validation)
        assert len(targets.clusters[0].error) == choose_num_clusters(validation)
