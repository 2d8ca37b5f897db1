"""The Local License Server: floating seats on a network that has no way out."""

__version__ = "0.1.0"
