"""What a model's repository holds beside config and weights: a card, a picture, code to load it."""
