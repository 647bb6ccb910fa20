"""Speech as files, and batches of it on the device that trains."""
