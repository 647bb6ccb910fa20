"""Access control: Host and Origin, tokens, rate limits, reverse proxies, where to listen."""
