"""Images that are no numbers get no answer, and change none."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.faults.judging import judge
from tests.faults.pixels import attacks
from tests.tiny import images, routable
from torch.utils.data import Dataset
from transformers import ViTImageProcessorPil, pipeline

from quee_hf import BadImageError, ExitHeadTrainer, recommended_arguments
from quee_hf.execution.finite import are_finite, check_finite
from quee_hf.execution.path_outputs import collect_path_outputs


class Images(Dataset):
    def __init__(self, bad: int) -> None:
        self.pixels = images(8)
        self.pixels[bad, 1, 5, 5] = torch.nan

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": index % 3}


def test_every_engine_says_that_it_has_no_answer():
    verdicts = [judge(attack, ()) for attack in attacks(["linear"], {"NaN": torch.nan})]
    assert {verdict.outcome for verdict in verdicts} == {"its logits are NaN, the others' as ever"}
    assert len(verdicts) == 12


class TestFinite:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    def test_of_every_kind_of_float(self, dtype):
        pixel_values = torch.full(
            (5, 3, 40, 40), 60.0, dtype=dtype
        )  # half precision could not hold their sum
        pixel_values[1, 0, 0, 0], pixel_values[2, 2, 39, 39] = torch.nan, torch.inf
        pixel_values[3, 0, 0, 0], pixel_values[3, 0, 0, 1] = torch.inf, -torch.inf
        assert are_finite(pixel_values).tolist() == [True, False, False, False, True]

    def test_of_no_images(self):
        assert are_finite(torch.empty(0, 3, 4, 4)).shape == (0,)

    def test_says_which_is_not(self):
        pixel_values = images(4)
        check_finite(pixel_values)
        pixel_values[2, 0, 0, 0] = torch.nan
        with pytest.raises(ValueError, match="of image 12, counted from 0, hold NaN"):
            check_finite(pixel_values, 10)


def test_nothing_is_fitted_to_them(tmp_path):
    model = routable(levels=["fp32"])
    with pytest.raises(ValueError, match="image 5, counted from 0, hold NaN or infinity"):
        collect_path_outputs(model, Images(5), batch_size=2)
    with pytest.raises(ValueError, match="image 6, counted from 0, hold NaN or infinity"):
        ExitHeadTrainer(
            model,
            recommended_arguments(str(tmp_path), use_cpu=True),
            train_dataset=Images(6),
            eval_dataset=Images(0),
        )


def test_the_pipeline_refuses_them():
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    classify = pipeline(
        "image-classification", model=routable(levels=[8, 4]), image_processor=processor, device="cpu"
    )
    classify(Image.new("RGB", (20, 20)))
    processor.image_std = [0.5, 0.0, 0.5]
    with pytest.raises(BadImageError, match="hold NaN or infinity"), np.errstate(all="ignore"):
        classify(Image.new("RGB", (20, 20)))
