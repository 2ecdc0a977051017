"""Put a model on the Hub, and load it from there: `python examples/06_push.py my-name/quee-digits`.

Run `01_convert.py` first, and log in with `hf auth login`. Without a repository it only shows the card.
"""

import sys
from pathlib import Path

from transformers import AutoImageProcessor, pipeline

from quee_hf import QuEEForImageClassification

OUTPUT = Path("examples-output")

model = QuEEForImageClassification.from_pretrained(OUTPUT / "run" / "model")
processor = AutoImageProcessor.from_pretrained(OUTPUT / "run" / "model", backend="pil")

if len(sys.argv) < 2:
    print((OUTPUT / "run" / "model" / "README.md").read_text(encoding="utf-8"))
    sys.exit()

repository = sys.argv[1]
commit = model.push_to_hub(repository, private=True, tags=["digits"])  # config, weights, card
processor.push_to_hub(repository)  # what the pipeline needs to read images
print(f"Pushed: {commit.commit_url}")

classify = pipeline("image-classification", model=repository, cost_lambda=0.1, return_routing=True)
print(classify(str(next((OUTPUT / "images" / "test" / "7").iterdir()))))
