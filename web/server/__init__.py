"""The server: accepting connections, TLS, deadlines, HTTP/1.1, and the WebSocket of one session."""
