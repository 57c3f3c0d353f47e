"""Cut the students' exercises from the solutions.

    python book/_tools/sheets.py

Reads notebooks/solutions/*.py and writes notebooks/exercises/*.py: what stands between the lines
BEGIN SOLUTION and END SOLUTION becomes a blank, and cells tagged "solution" are left out. The
markers are those of nbgrader.
"""

import re
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CELL = re.compile(r"^(?=# %%)", re.MULTILINE)
MARKED = re.compile(r"^( *)# BEGIN SOLUTION\n.*?\n *# END SOLUTION$", re.MULTILINE | re.DOTALL)
BLANK = r"\1# YOUR CODE HERE\n\1raise NotImplementedError"


def student_version(solution):
    """Return the text of a student's sheet for the text of a solution, both .py files."""
    cells = [cell for cell in CELL.split(solution) if '"solution"' not in cell.split("\n")[0]]
    return MARKED.sub(BLANK, "".join(cells)).rstrip("\n") + "\n"


def main():
    for path in sorted((NOTEBOOKS / "solutions").glob("*.py")):
        text = student_version(path.read_text(encoding="utf-8"))
        (NOTEBOOKS / "exercises" / path.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
