"""What a quantized tensor is."""
