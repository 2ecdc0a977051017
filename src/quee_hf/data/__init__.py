"""Labelled images for training and measuring, from parquet files, image folders or the Hub."""

from quee_hf.data.label_matching import match_labels
from quee_hf.data.labelled_images import (
    LabelledImages,
    ProcessedImages,
    count_shared_images,
    load_image_dataset,
)
from quee_hf.data.sources import shown_source

__all__ = [
    "LabelledImages",
    "ProcessedImages",
    "count_shared_images",
    "load_image_dataset",
    "match_labels",
    "shown_source",
]
