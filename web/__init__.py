"""Speaks: HTTP, WebSocket and the pages."""
