"""What the processes of a node give up, and what they keep."""
