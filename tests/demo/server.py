"""A demo that is served, for tests that look at it from outside."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from quee_hf.demo.app import launch, make_app
from quee_hf.demo.classification import Classifier


def free_port() -> int:
    """Return a port that is free now. Gradio, looking for one, leaves sockets open."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(classifier: Classifier) -> Iterator[str]:
    """Serve a demo at a free port, and yield where."""
    app = make_app(classifier.model, classifier.image_processor)
    url = launch(app, port=free_port())
    try:
        yield url
    finally:
        app.close(verbose=False)
        if (cache := getattr(app, "GRADIO_CACHE", None)) is not None:
            shutil.rmtree(cache, ignore_errors=True)
