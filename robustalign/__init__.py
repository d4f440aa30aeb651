"""robustalign: how aligned language models behave when preferences shift."""

__version__ = "0.1.0"
