"""Valkyrie: frames from application to application, classified in the kernel."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("valkyrie")
