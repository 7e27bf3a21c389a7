"""Whole engines under virtual time."""
