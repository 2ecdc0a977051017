"""Exit heads and their loss."""
