"""Write `open_clip.json` anew, where open_clip is installed: `PYTHONPATH=src:. python tests/golden/make_open_clip.py`.

Right because open_clip itself computed the embeddings, after it took the weights of `tests.reference.open_clip` under
the names that they have there, all of them and no others.
"""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from tests.open_clip_library import real_open_clip
from tests.reference.open_clip import random_weights

HERE = Path(__file__).parent
SIZES = {"seed": 3, "width": 128, "layers": 3, "patch": 32, "grid": 2, "embedding": 16}
TEXT = {"context_length": 8, "vocab_size": 10, "width": 64, "heads": 1, "layers": 1}


def embeddings(library: ModuleType, *, is_quick: bool) -> list[list[float]]:
    image_size = SIZES["grid"] * SIZES["patch"]
    vision = {"image_size": image_size, "patch_size": SIZES["patch"]}
    vision |= {"width": SIZES["width"], "layers": SIZES["layers"]}
    model = library.CLIP(SIZES["embedding"], vision, TEXT, quick_gelu=is_quick).eval().double()
    weights = random_weights(**SIZES)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    images = np.random.default_rng(5).standard_normal((2, 3, image_size, image_size)).astype(np.float32)
    with torch.inference_mode():
        return model.encode_image(torch.from_numpy(images).double()).tolist()


if __name__ == "__main__":
    library = real_open_clip()
    found = {"gelu": embeddings(library, is_quick=False), "quick_gelu": embeddings(library, is_quick=True)}
    content = {"open_clip": library.__version__, "sizes": SIZES, "image_embeddings": found}
    (HERE / "open_clip.json").write_text(json.dumps(content, indent=1) + "\n")
