"""`quee build` as a library: from a trained classifier to a QuEE model, in stages that can be resumed."""

from quee_hf.build.builder import BuildResult, StageResult, build
from quee_hf.build.recipe import Recipe

__all__ = ["BuildResult", "Recipe", "StageResult", "build"]
