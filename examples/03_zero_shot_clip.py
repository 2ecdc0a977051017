"""Zero-shot CLIP with early exits: `python examples/03_zero_shot_clip.py [CLIP]`.

Classes are texts: their embeddings are what the image is compared with. CLIP is a Hub id or directory, such
as openai/clip-vit-base-patch32; without one, a tiny CLIP with random weights shows the calls.
"""

import sys

import torch
from transformers import AutoProcessor, CLIPConfig, CLIPModel

from quee_hf import QuEEForImageClassification, quantize

NAMES = ["a photo of a cat", "a photo of a dog", "a photo of a bird"]


def open_clip_model() -> tuple[CLIPModel, torch.Tensor]:
    """Return a CLIP and the embeddings of the texts, `(texts, size)`."""
    if len(sys.argv) > 1:
        clip, processor = CLIPModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
        texts = processor(text=NAMES, return_tensors="pt", padding=True)
    else:
        torch.manual_seed(0)
        tower = {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        }
        config = CLIPConfig(
            text_config={**tower, "vocab_size": 99, "eos_token_id": 98},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=32,
        )
        clip, texts = CLIPModel(config), {"input_ids": torch.randint(0, 98, (len(NAMES), 6))}
    with torch.inference_mode():
        found = clip.eval().get_text_features(**texts)
    return clip, (found if isinstance(found, torch.Tensor) else found.pooler_output).clone()


clip, embeddings = open_clip_model()
num_blocks = clip.config.vision_config.num_hidden_layers
model = QuEEForImageClassification.from_backbone(
    clip,
    class_embeddings=embeddings,
    exit_blocks=[num_blocks // 2, num_blocks],
    levels=["fp32", 8],
    id2label=dict(enumerate(NAMES)),
)
size = clip.config.vision_config.image_size
pixel_values = torch.randn(8, 3, size, size)  # images of yours, through the CLIP's image processor
with torch.inference_mode():
    image = clip.get_image_features(pixel_values)
    image = image if isinstance(image, torch.Tensor) else image.pooler_output
    cosine = (
        torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(embeddings, dim=-1).T
    )
    exact = model(pixel_values, path=["fp32", "fp32"])
    difference = (exact.logits - clip.logit_scale.exp() * cosine).abs().max()
    print(f"At full precision the logits are CLIP's own, but for {difference:.1e}.")
    quantize(model, pixel_values)
    output = model(pixel_values, path=[8, 8])
    same = (output.logits.argmax(-1) == exact.logits.argmax(-1)).float().mean()
    print(f"At 8 bits, {output.cost[0]:.2f} of the cost, {same:.0%} of the answers are the same.")
print("Next: train the heads and gates on images, as `quee build --class-embeddings` does.")
