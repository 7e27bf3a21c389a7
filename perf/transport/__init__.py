"""Transport through a calibrated network, beside the kernel's TCP in the same run."""

from .report import run

__all__ = ["run"]
