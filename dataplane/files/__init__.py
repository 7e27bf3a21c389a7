"""Files from host to host, on streams."""
