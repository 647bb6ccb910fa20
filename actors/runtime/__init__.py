"""What the actors are built from: bounded channels, pinned threads, batching stages, histograms, traces."""
