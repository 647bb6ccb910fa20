"""How a training command runs: its device, its checkpoints, its log and its exit code."""
