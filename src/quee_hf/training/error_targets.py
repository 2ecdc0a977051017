"""`ErrorTargets`: what a gate is taught about how likely each path is to be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from quee_hf.execution.path_outputs import PathOutputs, collect_path_outputs
from quee_hf.modeling import QuEEForImageClassification
from quee_hf.processes import is_main_process

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

CANDIDATE_CLUSTERS = (5, 10, 20, 40, 70)


@dataclass(frozen=True)
class PathClusters:
    """K-means clusters of one path's class probabilities, with each cluster's share of wrong images."""

    kmeans: "KMeans"
    error: Tensor  # (clusters,), float32

    def targets(self, probabilities: Tensor) -> Tensor:
        """Map `(images, labels)` to the error of the cluster each image falls in, `(images,)`."""
        return self.error[torch.from_numpy(self.kmeans.predict(probabilities.numpy())).long()]


class ErrorTargets:
    """Targets for `GateTrainer`.

    `ErrorTargets.outcomes()` gives each image's own outcome, 0 or 1, per path; gates learn from it with the
    logistic loss. `ErrorTargets.fit` gives the paper's smoothed targets: the share of wrong images in the
    image's cluster; gates learn from it with the squared error. Outcomes need gate images that the backbone
    has not been trained on; clusters need a separate set of unseen images.

    Args:
        clusters: One per path, or `None` for outcomes.
    """

    def __init__(self, clusters: Sequence[PathClusters] | None = None) -> None:
        self.clusters = clusters

    @property
    def kind(self) -> str:
        """Either "outcome" or "cluster"."""
        return "outcome" if self.clusters is None else "cluster"

    @classmethod
    def outcomes(cls) -> Self:
        """Return targets that are each image's own outcome."""
        return cls()

    @classmethod
    def fit(
        cls,
        model: QuEEForImageClassification,
        validation: Dataset[Any] | PathOutputs,
        *,
        num_clusters: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Cluster every path's class probabilities and count the wrong images per cluster.

            pe(cluster) = (wrong + path error) / (images + 1)

        The share is shrunk towards the path's error by one image, which only matters in tiny clusters.

        Args:
            model: With trained heads.
            validation: Unseen images used for nothing else, or their collected outputs.
            num_clusters: Clusters per path; if not given, what `choose_num_clusters` says.
            seed: Of k-means.

        Raises:
            ValueError: If there are fewer images than clusters.

        Source:
            Regol et al. 2024 (arXiv:2406.14404), Eq. (10)-(12), §5.2 and §7.2. Differs: shrinkage.
        """
        outputs = validation
        if not isinstance(outputs, PathOutputs):
            outputs = collect_path_outputs(model, outputs, device=model.device)
        if num_clusters is None:
            num_clusters = choose_num_clusters(outputs, seed=seed)
        if not 1 <= num_clusters <= len(outputs):
            raise ValueError(
                f"`num_clusters` must be 1 to {len(outputs)}, the number of images, got {num_clusters}."
            )
        return cls(_fit_clusters(outputs, num_clusters, seed))

    def __call__(self, outputs: PathOutputs) -> Tensor:
        """Return the targets of a set of images, `(images, paths)`, float32 in [0, 1]."""
        if self.clusters is None:
            return outputs.is_wrong.float()
        probabilities = outputs.probabilities
        return torch.stack([part.targets(probabilities[:, i]) for i, part in enumerate(self.clusters)], dim=1)


def choose_num_clusters(
    outputs: PathOutputs, candidates: Sequence[int] = CANDIDATE_CLUSTERS, *, seed: int = 0
) -> int:
    """Return the number of clusters whose targets are nearest to the outcomes of a held-out half.

    Nearest by squared error (the Brier score).

    Source:
        Regol et al. 2024 (arXiv:2406.14404), §7.2. Differs: the paper takes the calibration error, which a
        single cluster has none of, and which does not tell apart what a few clusters know and what many do.
    """
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(seed))
    fitted, held_out = outputs.select(order[::2]), outputs.select(order[1::2])
    candidates = [count for count in candidates if count <= len(fitted)] or [1]
    outcomes, errors = held_out.is_wrong.float(), []
    title, is_quiet = "Choosing the number of clusters", not is_main_process()
    for count in tqdm(candidates, desc=title, unit="candidate", disable=is_quiet):
        targets = ErrorTargets(_fit_clusters(fitted, count, seed))(held_out)
        errors.append(float((targets - outcomes).square().mean()))
    return candidates[int(np.argmin(errors))]


def _fit_clusters(outputs: PathOutputs, num_clusters: int, seed: int) -> list[PathClusters]:
    from sklearn.cluster import KMeans  # with pandas a quarter of the time to import quee_hf

    clusters, probabilities = [], outputs.probabilities
    for path, is_wrong in enumerate(outputs.is_wrong.T):
        kmeans = KMeans(num_clusters, init="random", n_init=10, random_state=seed)
        members = torch.from_numpy(kmeans.fit_predict(probabilities[:, path].numpy())).long()
        images = torch.bincount(members, minlength=num_clusters)
        wrong = torch.bincount(members, weights=is_wrong.double(), minlength=num_clusters)
        error = (wrong + is_wrong.double().mean()) / (images + 1)
        clusters.append(PathClusters(kmeans, error.float()))
    return clusters
