"""The building blocks of both models: attention, convolution, norms, linear and quantized layers."""
