"""HTTP and WebSocket on sockets: accepting, TLS, deadlines, and one WebSocket session."""
