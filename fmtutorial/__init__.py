"""Flow matching, written to be read: the package behind the flow-matching tutorial.

Each module holds one idea of the book and is imported by its own name,
for example ``from fmtutorial.paths import LINEAR, AffinePath``.
"""

__version__ = "0.1.0"
