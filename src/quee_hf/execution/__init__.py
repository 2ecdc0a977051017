"""Moving activations: the prefix tree, the routed forward, and replay."""
