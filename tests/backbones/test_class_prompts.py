"""Tests of embedding class names by an open_clip checkpoint's text tower."""

import sys

import pytest
import torch
from tests.open_clip_library import real_open_clip
from tests.reference.open_clip import random_weights

from quee_hf import MissingExtraError, UnsupportedBackboneError
from quee_hf.backbones.open_clip import DEFAULT_TEMPLATES, OpenCLIPCheckpoint, embed_class_names

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "patch_size": 32},
    "text_cfg": _TEXT,
}
NAMES = ["tabby cat", "dog", "aeroplane"]


def checkpoint(activation="gelu", **changes):
    weights = random_weights(context=77, vocabulary=49408, text_layers=2)
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    return OpenCLIPCheckpoint({**tensors, **changes}, activation, model_config=CONFIG)


class TestWithOpenCLIP:
    @pytest.fixture
    def library(self):
        return real_open_clip()

    @pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
    def test_they_are_means_over_prompts(self, library, activation):
        """By open_clip's own model, which has the whole checkpoint, one prompt at a time."""
        opened, templates = checkpoint(activation), ("a photo of a {}.", "{}, small")
        model = library.CLIP(**CONFIG, quick_gelu=activation == "quick_gelu").eval()
        model.load_state_dict(dict(opened.weights))
        found = embed_class_names(opened, NAMES, templates)
        assert (found.shape, found.dtype) == ((3, 16), torch.float32)
        for name, row in zip(NAMES, found, strict=True):
            with torch.inference_mode():
                prompts = [
                    model.encode_text(library.tokenize([text.format(name)]), normalize=True)
                    for text in templates
                ]
            expected = torch.nn.functional.normalize(torch.cat(prompts).mean(dim=0), dim=0)
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
        assert (found[0] - found[1]).norm() > 0.01

    def test_what_belongs_to_training_or_openai_is_left_out(self, library):
        extra = {
            "input_resolution": torch.tensor(64),
            "context_length": torch.tensor(77),
            "vocab_size": torch.tensor(49408),
            "attn_mask": torch.zeros(77, 77),
            "logit_scale": torch.tensor([3.5]),
        }
        assert torch.equal(
            embed_class_names(checkpoint(**extra), NAMES), embed_class_names(checkpoint(), NAMES)
        )

    def test_a_text_tower_of_another_size(self, library):
        wrong = checkpoint(**{"ln_final.weight": torch.ones(3)})
        with pytest.raises(UnsupportedBackboneError, match=r"does not fit its config.*ln_final"):
            embed_class_names(wrong, NAMES)
        more = checkpoint(**{"text.extra": torch.ones(3)})
        with pytest.raises(UnsupportedBackboneError, match=r"does not fit its config: text\.extra"):
            embed_class_names(more, NAMES)

    def test_a_text_tower_of_another_library(self, library):
        config = {**CONFIG, "text_cfg": {"hf_model_name": "roberta-base"}}
        opened = OpenCLIPCheckpoint({}, "gelu", model_config=config)
        with pytest.raises(UnsupportedBackboneError, match="not open_clip's own"):
            embed_class_names(opened, NAMES)


@pytest.mark.parametrize("reason", [None, "broken"])
def test_without_open_clip_it_says_what_to_install(reason, monkeypatch, tmp_path):
    if reason is None:
        monkeypatch.setitem(sys.modules, "open_clip", None)
    else:  # what a torchvision of another torch does
        (tmp_path / "open_clip.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')"
        )
        monkeypatch.delitem(sys.modules, "open_clip", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install quee-hf\[open-clip\]`; it brings torchvision"):
        embed_class_names(checkpoint(), NAMES)


@pytest.mark.parametrize(
    "templates", ["a {}", [], ["a cat"], ["a {}", "a"], ["{} and {}"], ["{} of {x}"], ["{0}"], ["a {} {"]]
)
def test_templates_have_a_place_for_the_name(templates):
    with pytest.raises(ValueError, match=r"`templates` must be a list of texts with one '\{\}'"):
        embed_class_names(checkpoint(), NAMES, templates)


def test_names_are_checked_before_anything_is_imported():
    with pytest.raises(ValueError, match="at least two classes"):
        embed_class_names(checkpoint(), ["cat"])
    assert all("{}" in template for template in DEFAULT_TEMPLATES)
