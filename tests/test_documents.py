"""Every block of Python in the documents runs, as a reader would run it: one after the other, in a folder with data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from tests.hub.loopback import loopback_hub
from tests.official_t2t_vit import official_weights, write_checkpoint
from tests.reference.open_clip import random_weights
from tests.tiny import PROJECTION_SIZE, VARIANTS, images, randomize
from torch.utils.data import Dataset
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from quee_hf import QuEEForImageClassification, quantize
from quee_hf.hub.card import render_card

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- test: skip[^>]*-->\n)?```python\n(.*?)```", flags=re.DOTALL)
_SIZE = 16


class RandomImages(Dataset):
    """Images of noise with labels, different for each seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.pixels = images(count, _SIZE, seed)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": index % 3}


def small_vit(num_blocks: int) -> ViTForImageClassification:
    size = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    config = ViTConfig(
        **size, num_hidden_layers=num_blocks, image_size=_SIZE, patch_size=8, num_labels=3, qkv_bias=True
    )
    vit = ViTForImageClassification(config).eval()
    randomize(vit)
    return vit


@pytest.fixture(scope="module")
def routed():
    """What the quickstart makes, as far as it matters here."""
    model = QuEEForImageClassification.from_backbone(small_vit(6), exit_blocks=[2, 4, 6], levels=[8, 4])
    quantize(model, images(4, _SIZE))
    model.config.trained_parts = ["gates", "heads"]
    model.fit_operating_points(RandomImages(24, seed=5))
    return model


@pytest.fixture
def folder(routed, tmp_path, monkeypatch):
    """Hold what the documents name: a classifier, a CLIP, a checkpoint, a routed model, an image."""
    from PIL import Image

    processor = ViTImageProcessorPil(size={"height": _SIZE, "width": _SIZE}, do_convert_rgb=True)
    small_vit(12).save_pretrained(tmp_path / "my-vit")
    VARIANTS["clip"].build().save_pretrained(tmp_path / "my-clip")
    weights = random_weights(width=64, layers=12, embedding=PROJECTION_SIZE)
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    official = official_weights(hidden_size=64, num_blocks=7, grid=_SIZE // 16)
    write_checkpoint(tmp_path / "71.7_T2T_ViT_7.pth.tar", official)
    output = tmp_path / "quickstart-output"
    for name, owner in (("model", routed), ("classifier", small_vit(8))):
        owner.save_pretrained(output / name)
        processor.save_pretrained(output / name)
    for role in ("train", "unseen", "held-out"):
        for number in range(24):
            file = output / "images" / role / f"LABEL_{number % 3}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((20, 20), 80).save(file)
    Image.effect_noise((20, 20), 80).save(output / "digit.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given() -> dict[str, object]:
    """Variables that the documents take as given: data sets, images, text embeddings."""
    return {
        "train": RandomImages(40, seed=1),
        "unseen": RandomImages(40, seed=2),
        "validation": RandomImages(40, seed=3),
        "images": images(8, _SIZE, seed=4),
        "pixel_values": images(2, _SIZE, seed=6),
        "clip_pixel_values": images(2, 30),
        "text_embeddings": torch.randn(5, PROJECTION_SIZE),
    }


def blocks(text: str) -> list[str]:
    return [code for skip, code in _BLOCK.findall(text) if not skip]


@pytest.mark.filterwarnings("ignore:The whole network is right on:UserWarning")  # of noise
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_run(path, folder):
    namespace = given()
    for number, code in enumerate(blocks(path.read_text(encoding="utf-8")), start=1):
        exec(compile(code, f"{path.name}, block {number}", "exec"), namespace)


def test_the_block_that_pushes_runs(folder):
    """What needs an account, against a Hub on loopback."""
    text = (REPOSITORY / "docs" / "hub.md").read_text(encoding="utf-8")
    (code,) = [code for skip, code in _BLOCK.findall(text) if skip]
    source = str(folder / "quickstart-output" / "model")
    given = (
        "from transformers import AutoImageProcessor; from quee_hf import QuEEForImageClassification\n"
        f"model = QuEEForImageClassification.from_pretrained({source!r})\n"
        f"processor = AutoImageProcessor.from_pretrained({source!r}, backend='pil')\n"
    )
    with loopback_hub() as hub:
        environment = {**os.environ, **hub.environment(folder / "home")}
        subprocess.run([sys.executable, "-c", given + code], env=environment, check=True, timeout=300)
        assert {"model.safetensors", "preprocessor_config.json"} <= hub.files("my-name/quee-vit").keys()


@pytest.mark.parametrize("exits", [[6], [2, 6]], ids=["quantized", "untrained"])
def test_the_block_of_a_card_without_gates_runs(exits, folder):
    model = QuEEForImageClassification.from_backbone(small_vit(6), exit_blocks=exits, levels=[8, 4])
    quantize(model, images(4, _SIZE))
    model.save_pretrained(folder / "model")
    ViTImageProcessorPil.from_pretrained(folder / "quickstart-output" / "model").save_pretrained(
        folder / "model"
    )
    (code,) = blocks(render_card(model.config, "org/quee-vit"))
    assert "path=[" in code
    (folder / "image.png").write_bytes((folder / "quickstart-output" / "digit.png").read_bytes())
    exec(code.replace("org/quee-vit", "model"), {})


def test_the_block_of_a_card_runs(routed, folder):
    (code,) = blocks(render_card(routed.config, "org/quee-vit"))
    (folder / "image.png").write_bytes((folder / "quickstart-output" / "digit.png").read_bytes())
    exec(code.replace("org/quee-vit", "quickstart-output/model"), {})


def test_links_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_page_of_the_command_line_is_what_help_says(tmp_path):
    """`make docs` writes it."""
    command = [sys.executable, "-m", "typer", "quee_hf.cli.app", "utils", "docs", "--name", "quee"]
    command += ["--title", "Command line", "--output", str(tmp_path / "page.md")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "page.md").read_text() == (REPOSITORY / "docs" / "command-line.md").read_text()
