"""Parts of a model as ONNX graphs, which engines run and users deploy."""
