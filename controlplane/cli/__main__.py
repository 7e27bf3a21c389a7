"""``python -m valkyrie.controlplane.cli`` is the ``valkyrie`` command."""

from . import main

main()
