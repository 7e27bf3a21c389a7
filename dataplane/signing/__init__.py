"""Whose signature something has: fingerprints, Merkle trees, and seals of messages."""
