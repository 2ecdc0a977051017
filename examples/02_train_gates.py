"""Train gates on images of your own with the Trainer: `python examples/02_train_gates.py`.

Run `01_convert.py` first. Gates adapt a model to other images than it was built with: the backbone stays as
it is, and training takes seconds, because every path runs only once on each image.
"""

from pathlib import Path

from transformers import AutoImageProcessor

from quee_hf import GateTrainer, QuEEForImageClassification, recommended_arguments
from quee_hf.data import load_image_dataset, match_labels

OUTPUT = Path("examples-output")

model = QuEEForImageClassification.from_pretrained(OUTPUT / "run" / "model")
processor = AutoImageProcessor.from_pretrained(OUTPUT / "run" / "model", backend="pil")

# A folder with a subfolder per class, parquet files, or a data set on the Hub. Any torch data set will do
# whose items are {"pixel_values": tensor, "labels": int}.
# Folders are sorted by name: `match_labels` gives each image the number that its class has in the model.
images = match_labels(load_image_dataset(str(OUTPUT / "images" / "unseen")), model.config.id2label)
train, held_out, measured = (
    part.with_processor(processor) for part in images.split([0.6, 0.15, 0.25], seed=1)
)

arguments = recommended_arguments(
    str(OUTPUT / "training"), learning_rate=5e-3, num_train_epochs=10, logging_strategy="no"
)
trainer = GateTrainer(model, arguments, train_dataset=train, eval_dataset=held_out)
trainer.train()
print(f"Loss of the best epoch on held-out images: {trainer.state.best_metric:.4f}")

# What each lambda costs and gives, on images that nothing was chosen by.
for point in model.fit_operating_points(measured)[::4]:
    print(f"cost_lambda {point['cost_lambda']:<6} cost {point['cost']:.3f}  accuracy {point['accuracy']:.1%}")
model.save_pretrained(OUTPUT / "own-gates")
processor.save_pretrained(OUTPUT / "own-gates")
