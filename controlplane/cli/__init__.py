"""The ``valkyrie`` command."""

from cyclopts import App

from valkyrie import __version__

app = App(name="valkyrie", help="A node-level data plane for Linux hosts.", version=__version__)


def main() -> None:
    """Run the command line."""
    app()
