"""One client's conversation on the server: admission, the session, its send queue and its recording."""
