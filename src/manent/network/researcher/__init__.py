"""What a researcher asks of a server, with a token."""

from manent.network.researcher.asking import Researcher

__all__ = ["Researcher"]
