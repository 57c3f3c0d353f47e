"""python -m fmtutorial.images --help: see ``command``."""

from fmtutorial.images.command import main

main()
