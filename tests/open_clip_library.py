"""open_clip itself, for tests that compare with it, where it can be imported."""

from types import ModuleType

import pytest


def real_open_clip() -> ModuleType:
    """Return open_clip, or skip the test: open_clip imports torchvision, of which there must be a build for this torch."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        pytest.skip(
            f"open_clip cannot be imported ({reason}): pip install open_clip_torch, and a torchvision that fits."
        )
    return open_clip
