"""From published files to loaded weights: configurations, formats, key maps, loading, writing."""
