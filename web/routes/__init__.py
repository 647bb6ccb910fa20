"""What is served over HTTP, a module for each group of addresses."""
