"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any test imports a Hugging Face library
# Tests run tiny tensors: threads that wait for each other take longer than the work, and sums vary with their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, however busy the machine is: a failure is a change of the code, not of luck.
settings.register_profile(
    "quee", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quee")


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of the real models and images; `QUEE_REQUIRE_ASSETS=1` turns skipping into failing."""
    repository = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("QUEE_ASSETS", repository.parent / "shared" / "assets"))
    if not folder.is_dir():
        message = f"No real models and images in {folder}; set QUEE_ASSETS."
        (pytest.fail if os.environ.get("QUEE_REQUIRE_ASSETS") == "1" else pytest.skip)(message)
    return folder
