"""From published files to loaded weights: formats, key maps, configurations, validation, writing."""
