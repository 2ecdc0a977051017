"""From a trained classifier to a QuEE model: `python examples/01_convert.py`.

The same as `quee build` on the command line. An interrupted run goes on where it stopped. The other numbered
examples use what this one writes to `examples-output/`.
"""

from pathlib import Path

from _digits import write_classifier, write_digits

from quee_hf.build import Recipe, build

OUTPUT = Path("examples-output")

# A stand-in for what you have: a fine-tuned classifier, and folders with a subfolder of images per class.
write_digits(OUTPUT / "images")
write_classifier(OUTPUT / "classifier")

recipe = Recipe(
    model=str(OUTPUT / "classifier"),  # a directory, or an id on the Hub
    train=str(OUTPUT / "images" / "train"),  # the classifier may have seen these
    validation=str(OUTPUT / "images" / "unseen"),  # but not these: gates learn from its errors
    exits=(1, 2, 4),
    levels=(8, 4),
    head_epochs=10,
    gate_epochs=10,
)
result = build(recipe, OUTPUT / "run", say=print)

print(f"\nOperating points on {result.report['num_images']} images used for nothing else:")
for point in result.report["operating_points"]:
    print(f"cost_lambda {point['cost_lambda']:<6} cost {point['cost']:.3f}  accuracy {point['accuracy']:.1%}")
print(f"\nThe model and its card: {result.model}")
