"""The streaming state of every lane, around the models: NumPy in, NumPy out."""
