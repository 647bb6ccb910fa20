"""Who may connect: Host and Origin, tokens, rate limits, reverse proxies, where to listen."""
