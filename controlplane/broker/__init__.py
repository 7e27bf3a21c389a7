"""The node's only process with rights, and what it makes for the others."""
