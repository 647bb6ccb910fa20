"""The streaming state of every lane, around the models: NumPy in, NumPy out."""

import pipeline.models  # noqa: F401 - chooses the backend, before a module here imports MLX
