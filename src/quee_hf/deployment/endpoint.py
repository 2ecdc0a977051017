"""`EndpointHandler`: serve a saved model on Inference Endpoints, with PyTorch."""

import os
import threading
from typing import Any

from transformers import pipeline

import quee_hf  # noqa: F401 - registers the model and its pipeline
from quee_hf.deployment.request import read_request

_ENGINE_VARIABLE = "QUEE_ENGINE"


class EndpointHandler:
    """Answer requests, as `quee_hf.deployment.request.read_request` takes them.

    Several threads may call it at once. Images are decoded side by side, and run through the model one after
    the other: threads of PyTorch that share its cores take longer than in turn. The environment variable
    `QUEE_ENGINE` chooses the engine, as `model.set_engine` takes it.

    Args:
        path: Folder of the model.
    """

    def __init__(self, path: str = "") -> None:
        engine = os.environ.get(_ENGINE_VARIABLE) or None
        self._classify: Any = pipeline("image-classification", model=path or ".", engine=engine)
        self._lock = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> Any:
        """Classify one image.

        Returns:
            A list of `{"label", "score"}`; or with `return_routing` a dict of `"scores"`, that list, and
            `"routing"`, as `quee_hf.pipeline.Routing` has it.

        Raises:
            ValueError: If there is something wrong with the request.
        """
        request = read_request(data)
        options = {"cost_lambda": request.cost_lambda, "target_cost": request.target_cost}
        given = {name: value for name, value in options.items() if value is not None}
        with self._lock:
            return self._classify(
                request.image, top_k=request.top_k, return_routing=request.return_routing, **given
            )
