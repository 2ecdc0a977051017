"""Gates: what is known of an image, and what it predicts."""
