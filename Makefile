# The book's commands. `make help` lists them.
# Another Python: make book PYTHON=python3.12 (remove .venv first)

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
TOOLS := book/_tools

# Labs and tests run two at a time, each on one core.
export OMP_NUM_THREADS := 1

.PHONY: help book pdf test notebooks colab device lint package repository clean

help:
	@echo "make book                  build the site in _build/html, with slides of each chapter"
	@echo "make pdf                   print the book to _build/pdf/flow-matching.pdf (needs Chromium)"
	@echo "make test                  run every test, every lab and the linter"
	@echo "make notebooks [LAB=name]  run labs and exercises from their .py files, store the outputs"
	@echo "make colab [LAB=name]      run labs as Colab would: only the package, in an empty folder"
	@echo "make device                run all labs whole on a pretended device that is not the CPU"
	@echo "make lint                  check style and format"
	@echo "make package [TAG=v0.1.0]  build wheel and sdist in dist/, check and try them, for a release"
	@echo "make repository            copy the repository's address and the version to the files that name them"
	@echo "make clean                 delete _build; .venv and vendor stay"

book: .venv/book-ready vendor/npm-ready
	@echo "== Building the site (a warning is an error)"
	@rm -f _build/html-ready
	@$(BIN)/jupyter-book build . -W -n --all --keep-going -q
	@test -n "$(ONCE)" || touch _build/html-ready
	@echo "== The site is ready: $(CURDIR)/_build/html/index.html"
	@echo "   Open it in a browser, or serve it: $(BIN)/python -m http.server -d _build/html"

# Tests and PDF have it built again only if a part of it is newer, or it is to have another address
# or version for once.
ONCE := $(FMTUTORIAL_REPOSITORY)$(FMTUTORIAL_REF)
PARTS := $(shell find book notebooks fmtutorial -type f -not -path '*/__pycache__/*' -not -path '*/.*')

_build/html-ready: .venv/book-ready vendor/npm-ready pyproject.toml _config.yml _toc.yml $(PARTS)
	@$(MAKE) --no-print-directory book

ifneq ($(ONCE),)
.PHONY: _build/html-ready
endif

pdf: .venv/pdf-ready _build/html-ready
	@echo "== Printing the book (some minutes)"
	@$(BIN)/python $(TOOLS)/pdf.py

test: .venv/test-ready lint _build/html-ready
	@echo "== Running the tests and every lab"
	@$(BIN)/python -m pytest -n 2 --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout 1200 tests notebooks

notebooks: .venv/test-ready
	@$(BIN)/python $(TOOLS)/sheets.py
	@$(BIN)/python $(TOOLS)/notebooks.py $(LAB)

colab: .venv/test-ready
	@$(BIN)/python $(TOOLS)/notebooks.py --isolated $(LAB)

device: .venv/test-ready
	@LONG=1 $(BIN)/python -m pytest -n 2 tests/test_pretended_device.py tests/test_devices_in_labs.py tests/images/test_float16.py

lint: .venv/test-ready
	@echo "== Checking style and format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check || { echo 'Run: $(BIN)/ruff format'; exit 1; }

package: .venv/release-ready
	@$(BIN)/python $(TOOLS)/package.py $(TAG)

repository: .venv/book-ready
	@$(BIN)/python $(TOOLS)/repository.py

clean:
	rm -rf _build

# Set-up. An empty file marks each finished step, so that it is done again only when the versions
# change.

.venv/book-ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "The book needs Python 3.10 or newer and this is %d.%d. Try: make PYTHON=python3.12" % v[:2])'
	@echo "== Setting up .venv with what builds the site (about a minute)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --quiet pip
	@$(PIP) --quiet --group book
	@touch $@

.venv/pdf-ready: .venv/book-ready
	@$(PIP) --quiet --group pdf
	@touch $@

.venv/test-ready: .venv/book-ready
	@echo "== Adding PyTorch, the package and the test tools to .venv (several minutes, some GB)"
	@$(PIP) --editable . --group test
	@touch $@

.venv/release-ready: .venv/book-ready
	@$(PIP) --quiet --group release
	@touch $@

vendor/npm-ready: book/_tools/npm.py
	@echo "== Fetching KaTeX, onnxruntime-web, reveal.js and axe-core"
	@$(BIN)/python $(TOOLS)/npm.py
