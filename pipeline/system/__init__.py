"""The operating system: how a command ends, output files made whole, cores and memory as granted."""
