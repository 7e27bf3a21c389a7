"""What a node counted, read from outside."""
