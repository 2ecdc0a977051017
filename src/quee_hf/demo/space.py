"""The demo as a Space of the Hub: a folder that holds all that it needs."""

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCardData

from quee_hf.build.source import is_local
from quee_hf.checkpoints import atomic_directory
from quee_hf.configuration import QuEEConfig
from quee_hf.execution.engines import EXTRAS
from quee_hf.hub.publish import published_files
from quee_hf.hub.sections import title_of

APP_FILE = "app.py"
_MODEL_FOLDER = "model"
# The machines of Spaces are CPUs unless one asks for more; other builds of torch take gigabytes.
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_APP = '''"""The demo of a QuEE model. Written by `quee demo --export-space`."""

from pathlib import Path

from transformers import pipeline

import quee_hf  # noqa: F401 - registers the model type and the pipeline
from quee_hf.demo.app import launch, make_app

classify = pipeline({arguments})
app = make_app(classify.model, classify.image_processor, title={title})

if __name__ == "__main__":
    launch(app)
    app.block_thread()
'''
_README = """---
{metadata}
---

# {title}

An image classifier that spends less on easy images: drop an image, move the slider, and see at which level
each block was computed, where the image left the network, and what that cost.

Made with quee_hf by `quee demo --export-space`.
"""


@dataclass(frozen=True)
class SpaceModel:
    """The model that a Space shows.

    Args:
        source: Directory, whose model is copied into the Space, or id on the Hub, from where it is loaded.
        config: Of that model.
        revision: Branch, tag or commit on the Hub.
        engine: What runs it.
    """

    source: str
    config: QuEEConfig
    revision: str = "main"
    engine: str = "torch"

    @property
    def is_copied(self) -> bool:
        """Whether it goes into the Space."""
        return is_local(self.source)


def export_space(model: SpaceModel, folder: Path) -> list[Path]:
    """Write a folder that can be pushed as a Space: `hf upload NAME FOLDER --repo-type space`.

    Args:
        model: To be shown.
        folder: New, or empty.

    Returns:
        The files.

    Raises:
        ValueError: If the folder holds something, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: a Space is written into a new one.")
    title = title_of(model.config, None if model.is_copied else model.source)
    with atomic_directory(folder) as staging:
        (staging / APP_FILE).write_text(_app(model, title), encoding="utf-8")
        (staging / "requirements.txt").write_text(_requirements(model), encoding="utf-8")
        (staging / "README.md").write_text(
            _README.format(metadata=_metadata(model, title), title=title), encoding="utf-8"
        )
        if model.is_copied:
            (staging / _MODEL_FOLDER).mkdir()
            for file in published_files(Path(model.source).expanduser()):
                shutil.copyfile(file, staging / _MODEL_FOLDER / file.name)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _app(model: SpaceModel, title: str) -> str:
    where = f'model=str(Path(__file__).parent / "{_MODEL_FOLDER}")'
    if not model.is_copied:
        where = f"model={json.dumps(model.source)}, revision={json.dumps(model.revision)}"
    arguments = f'"image-classification", {where}, engine={json.dumps(model.engine)}'
    return _APP.format(arguments=arguments, title=json.dumps(title))


def _requirements(model: SpaceModel) -> str:
    extras = ",".join(["demo", *({model.engine} & set(EXTRAS))])
    return f"--extra-index-url {_TORCH_INDEX}\nquee-hf[{extras}]=={version('quee-hf')}\n"


def _metadata(model: SpaceModel, title: str) -> str:
    """Return what the Hub needs to know, as YAML."""
    fields = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version="3.11",
        app_file=APP_FILE,
        license=(model.config.record or {}).get("license"),
        models=None if model.is_copied else [model.source],
        tags=["quee", "early-exit", "image-classification"],
    )
    return fields.to_yaml()
