"""Computes: arrays and state in, arrays and state out; and reads checkpoints.

Importing this package chooses the backend first (`pipeline.backend`), so that every
`import mlx.core` below it finds the right BLAS. No trio, no clocks, and no session's
state in a module: weights are immutable and shared, state is an argument.
"""

from pipeline import backend

backend.prepare()
