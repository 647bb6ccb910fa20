"""The commands: one module each, from arguments to an exit code. `main` finds them by name."""
