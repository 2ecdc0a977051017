"""`EndpointHandler`: serve an exported model on Inference Endpoints, without PyTorch."""

import threading
from typing import Any

from quee_hf.deployment.host import HostRouter, describe_images
from quee_hf.deployment.image_reader import ImageReader
from quee_hf.deployment.request import read_request


class EndpointHandler:
    """Answer requests, as `read_request` takes them.

    Several threads may call it at once. Images are decoded side by side, and run through the model one after
    the other, each on all cores.

    Args:
        path: Folder of the exported model.
    """

    def __init__(self, path: str = "") -> None:
        folder = path or "."
        self._read, self._router = ImageReader.from_folder(folder), HostRouter(folder)
        self._lock = threading.Lock()

    def __call__(self, data: dict[str, Any]) -> Any:
        """Classify one image.

        Returns:
            A list of `{"label", "score"}`; or with `return_routing` a dict of `"scores"`, that list, and
            `"routing"`.

        Raises:
            ValueError: If there is something wrong with the request.
        """
        request = read_request(data)
        pixel_values = self._read(request.image)
        with self._lock:
            routed = self._router(
                pixel_values, cost_lambda=request.cost_lambda, target_cost=request.target_cost
            )
        found = describe_images(self._router.description, routed, request.top_k)[0]
        return found if request.return_routing else found["scores"]
