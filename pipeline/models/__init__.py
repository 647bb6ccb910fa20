"""The models: arrays and state in, arrays and state out; and reading checkpoints.

Importing this package prepares the backend first (`pipeline.backend`), so that every `import
mlx.core` below it finds the fast BLAS. No Trio, no clocks, and no session state in a module:
weights are immutable and shared, state is an argument.
"""

from pipeline import backend

backend.prepare()
