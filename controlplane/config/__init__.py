"""The settings of a node, and the files they come from."""
