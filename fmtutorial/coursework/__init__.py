"""Exercises that check themselves, and a grader: python -m fmtutorial.coursework --help."""

from fmtutorial.coursework.checking import check

__all__ = ["check"]
