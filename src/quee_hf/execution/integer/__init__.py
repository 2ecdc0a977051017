"""Blocks on the integer kernels that PyTorch itself has."""
