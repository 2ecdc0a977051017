"""CLIP as open_clip lays it out: weights under its names, and an image's embedding, one token and one head at a time."""

import math

import numpy as np

Weights = dict[str, np.ndarray]


def random_weights(
    *,
    seed: int = 0,
    width: int = 128,
    layers: int = 3,
    patch: int = 32,
    grid: int = 2,
    embedding: int = 16,
    text_width: int = 64,
    text_layers: int = 1,
    context: int = 8,
    vocabulary: int = 10,
) -> Weights:
    """Return a whole model, float32; factors of norms are around 1, everything else is of a size that matters."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (1.2 * rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) or 1)).astype(np.float32)

    def norm(name: str, size: int) -> Weights:
        factor, shift = 1 + 0.2 * rng.standard_normal(size), 0.2 * rng.standard_normal(size)
        return {f"{name}.weight": factor.astype(np.float32), f"{name}.bias": shift.astype(np.float32)}

    def linear(name: str, outputs: int, inputs: int) -> Weights:
        return {f"{name}.weight": normal(outputs, inputs), f"{name}.bias": 0.1 * normal(outputs)}

    def transformer(name: str, size: int, number: int) -> Weights:
        weights: Weights = {}
        for block in (f"{name}.resblocks.{index}" for index in range(number)):
            weights |= norm(f"{block}.ln_1", size)
            weights[f"{block}.attn.in_proj_weight"] = normal(3 * size, size)
            weights[f"{block}.attn.in_proj_bias"] = 0.1 * normal(3 * size)
            weights |= linear(f"{block}.attn.out_proj", size, size)
            weights |= norm(f"{block}.ln_2", size)
            weights |= linear(f"{block}.mlp.c_fc", 4 * size, size)
            weights |= linear(f"{block}.mlp.c_proj", size, 4 * size)
        return weights

    return {
        "positional_embedding": 0.1 * normal(context, text_width),
        "text_projection": normal(text_width, embedding),
        "logit_scale": np.array(3.5, dtype=np.float32),
        "visual.class_embedding": normal(width),
        "visual.positional_embedding": 5 * normal(grid**2 + 1, width),
        "visual.proj": normal(width, embedding),
        "visual.conv1.weight": normal(width, 3, patch, patch),
        **norm("visual.ln_pre", width),
        **transformer("visual.transformer", width, layers),
        **norm("visual.ln_post", width),
        **transformer("transformer", text_width, text_layers),
        "token_embedding.weight": normal(vocabulary, text_width),
        **norm("ln_final", text_width),
    }


def encode_image(
    weights: Weights, image: np.ndarray, *, head_width: int = 64, is_quick: bool = False
) -> np.ndarray:
    """Return the embedding of one image, `(3, height, width)`, not normalised, in float64."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    filters = weights["visual.conv1.weight"]
    patch = filters.shape[-1]
    tokens = [weights["visual.class_embedding"]]
    for top in range(0, image.shape[1] - patch + 1, patch):
        for left in range(0, image.shape[2] - patch + 1, patch):
            part = image[:, top : top + patch, left : left + patch]
            tokens.append(np.array([np.sum(filter_ * part) for filter_ in filters]))
    positions = weights["visual.positional_embedding"]
    tokens = [
        _norm(weights, "visual.ln_pre", token + row) for token, row in zip(tokens, positions, strict=True)
    ]
    index = 0
    while (block := f"visual.transformer.resblocks.{index}") + ".ln_1.weight" in weights:
        tokens = _attend(weights, block, tokens, head_width)
        tokens = [token + _mlp(weights, block, token, is_quick) for token in tokens]
        index += 1
    return _norm(weights, "visual.ln_post", tokens[0]) @ weights["visual.proj"]


def _norm(weights: Weights, name: str, token: np.ndarray) -> np.ndarray:
    centred = token - token.mean()
    scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attend(weights: Weights, block: str, tokens: list[np.ndarray], head_width: int) -> list[np.ndarray]:
    """Multi-head self-attention: rows of the stacked projection are queries, then keys, then values."""
    stacked = [
        weights[f"{block}.attn.in_proj_weight"] @ _norm(weights, f"{block}.ln_1", token)
        + weights[f"{block}.attn.in_proj_bias"]
        for token in tokens
    ]
    size = len(tokens[0])
    mixed = [np.zeros(size) for _ in tokens]
    for start in range(0, size, head_width):
        head = slice(start, start + head_width)
        for row, one in enumerate(stacked):
            scores = [
                one[:size][head] @ other[size : 2 * size][head] / math.sqrt(head_width) for other in stacked
            ]
            powers = np.exp(np.array(scores) - max(scores))
            for power, other in zip(powers / powers.sum(), stacked, strict=True):
                mixed[row][head] += power * other[2 * size :][head]
    name = f"{block}.attn.out_proj"
    return [
        token + weights[f"{name}.weight"] @ found + weights[f"{name}.bias"]
        for token, found in zip(tokens, mixed, strict=True)
    ]


def _mlp(weights: Weights, block: str, token: np.ndarray, is_quick: bool) -> np.ndarray:
    normed = _norm(weights, f"{block}.ln_2", token)
    hidden = weights[f"{block}.mlp.c_fc.weight"] @ normed + weights[f"{block}.mlp.c_fc.bias"]
    if is_quick:
        hidden = hidden / (1 + np.exp(-1.702 * hidden))
    else:
        hidden = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    return weights[f"{block}.mlp.c_proj.weight"] @ hidden + weights[f"{block}.mlp.c_proj.bias"]
