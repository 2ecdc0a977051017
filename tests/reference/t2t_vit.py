"""T2T-ViT by loops over windows, tokens and heads, in float64, from the names and shapes of the authors' checkpoints.

Written from Yuan et al. 2021 (arXiv:2101.11986), §3, Choromanski et al. 2021 (arXiv:2009.14794), Eq. (5), and Vaswani
et al. 2017 (arXiv:1706.03762), §3.5.
"""

import math
from collections.abc import Mapping

import numpy as np

SPLITS = [(7, 4, 2), (3, 2, 1), (3, 2, 1)]  # window, step, border of zeros
Weights = Mapping[str, np.ndarray]


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Normalise one token."""
    deviation = x - x.sum() / len(x)
    variance = (deviation**2).sum() / len(x)
    return deviation / math.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Apply a linear layer to one token; some have no bias."""
    bias = weights.get(f"{name}.bias", 0.0)
    return weights[f"{name}.weight"] @ x + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def windows(grid: np.ndarray, split: tuple[int, int, int]) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Cut `(channels, height, width)` into windows, each written channel by channel, row by row."""
    size, step, border = split
    channels, height, width = grid.shape
    rows = (height + 2 * border - size) // step + 1
    columns = (width + 2 * border - size) // step + 1
    found = []
    for row in range(rows):
        for column in range(columns):
            values = []
            for channel in range(channels):
                for down in range(size):
                    for right in range(size):
                        y, x = row * step - border + down, column * step - border + right
                        is_inside = 0 <= y < height and 0 <= x < width
                        values.append(grid[channel, y, x] if is_inside else 0.0)
            found.append(np.array(values))
    return found, (rows, columns)


def performer(tokens: list[np.ndarray], weights: Weights, name: str) -> list[np.ndarray]:
    """Attention by random features; the layer's outputs are keys, queries, values, in this order."""
    random = weights[f"{name}.w"]
    keys, queries, values = zip(
        *(np.split(linear(x, weights, f"{name}.kqv"), 3) for x in tokens), strict=True
    )

    def features(x: np.ndarray) -> np.ndarray:
        return np.array([math.exp(row @ x - x @ x / 2) for row in random]) / math.sqrt(len(random))

    query_features, key_features = ([features(x) for x in each] for each in (queries, keys))
    results = []
    for query, own in zip(query_features, values, strict=True):
        similar = [query @ key for key in key_features]
        mixed = sum(weight * value for weight, value in zip(similar, values, strict=True))
        results.append(own + linear(mixed / (sum(similar) + 1e-8), weights, f"{name}.proj"))
    return results


def transformer(tokens: list[np.ndarray], weights: Weights, name: str) -> list[np.ndarray]:
    """Softmax attention of one head, scaled by the width of the windows."""
    queries, keys, values = zip(
        *(np.split(linear(x, weights, f"{name}.attn.qkv"), 3) for x in tokens), strict=True
    )
    scale, results = len(tokens[0]) ** -0.5, []
    for query, own in zip(queries, values, strict=True):
        shares = softmax(np.array([query @ key * scale for key in keys]))
        mixed = sum(share * value for share, value in zip(shares, values, strict=True))
        results.append(own + linear(mixed, weights, f"{name}.attn.proj"))
    return results


def token_stage(tokens: list[np.ndarray], weights: Weights, name: str) -> list[np.ndarray]:
    """Attention and MLP inside the T2T module."""
    is_performer = f"{name}.w" in weights
    attend, inner, outer = (performer, "0", "2") if is_performer else (transformer, "fc1", "fc2")
    attended = attend([layer_norm(x, weights, f"{name}.norm1") for x in tokens], weights, name)
    results = []
    for x in attended:
        hidden = gelu(linear(layer_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.{inner}"))
        results.append(x + linear(hidden, weights, f"{name}.mlp.{outer}"))
    return results


def block(tokens: list[np.ndarray], weights: Weights, name: str, num_heads: int) -> list[np.ndarray]:
    """One transformer block, head by head."""
    normed = [layer_norm(x, weights, f"{name}.norm1") for x in tokens]
    queries, keys, values = zip(
        *(np.split(linear(x, weights, f"{name}.attn.qkv"), 3) for x in normed), strict=True
    )
    size = len(tokens[0]) // num_heads
    results = []
    for x, query in zip(tokens, queries, strict=True):
        heads = []
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            shares = softmax(np.array([query[part] @ key[part] for key in keys]) * size**-0.5)
            heads.append(sum(share * value[part] for share, value in zip(shares, values, strict=True)))
        x = x + linear(np.concatenate(heads), weights, f"{name}.attn.proj")
        hidden = gelu(linear(layer_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        results.append(x + linear(hidden, weights, f"{name}.mlp.fc2"))
    return results


def embed(image: np.ndarray, weights: Weights) -> list[np.ndarray]:
    """Map `(channels, height, width)` to tokens, the class token first."""
    grid = image.astype(np.float64)
    for number, split in enumerate(SPLITS, start=1):
        tokens, shape = windows(grid, split)
        if number < len(SPLITS):
            tokens = token_stage(tokens, weights, f"tokens_to_token.attention{number}")
            grid = np.stack(tokens, axis=1).reshape(-1, *shape)
    projected = [linear(x, weights, "tokens_to_token.project") for x in tokens]
    tokens = [weights["cls_token"][0, 0], *projected]
    return [x + position for x, position in zip(tokens, weights["pos_embed"][0], strict=True)]


def t2t_vit_logits(image: np.ndarray, weights: Weights, num_heads: int) -> np.ndarray:
    """Classify one image, `(channels, height, width)`."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    tokens, number = embed(image, weights), 0
    while f"blocks.{number}.norm1.weight" in weights:
        tokens = block(tokens, weights, f"blocks.{number}", num_heads)
        number += 1
    return linear(layer_norm(tokens[0], weights, "norm"), weights, "head")


def positions(count: int, size: int) -> np.ndarray:
    """Sines and cosines of growing wavelength, `(count, size)`."""
    table = np.empty((count, size))
    for position in range(count):
        for index in range(size):
            angle = position / 10000 ** (2 * (index // 2) / size)
            table[position, index] = math.cos(angle) if index % 2 else math.sin(angle)
    return table
