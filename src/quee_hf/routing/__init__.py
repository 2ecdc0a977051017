"""Costs and decisions: tensors in, decisions out."""
