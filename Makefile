# Every target sets up what it needs, in .venv of this checkout, and does so once.

# The interpreter that .venv is made with.
PYTHON ?= python3
# Where `make search` writes; the same folder again resumes.
WORKDIR ?= runs/quickstart_digits

IN_VENV := .venv/bin/python -m
# Errors still show.
PIP_INSTALL := $(IN_VENV) pip install -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help environment search test lint clean

help:
	@echo 'make search       environment, then search, derive, train and export on the built-in digits'
	@echo '                  WORKDIR=$(WORKDIR)'
	@echo 'make test         environment, then the test suite'
	@echo 'make lint         environment, then ruff: findings and format'
	@echo 'make environment  .venv with everything; PYTHON=$(PYTHON)'
	@echo 'make clean        removes .venv and caches; keeps runs/'

environment: .venv/complete

search: .venv/complete
	@$(IN_VENV) darts_tf.bin.pipeline --flagfile=flags/quickstart_digits.flags --workdir='$(WORKDIR)'

# In three runs, because a process keeps all that was compiled in it: one run for all tests would need
# more than 20 GB. The file that takes longest comes first, so that nothing waits for it at the end.
PYTEST := $(IN_VENV) pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
LONGEST := tests/resume_test.py

test: .venv/complete
	$(PYTEST) $(LONGEST) tests/[a-f]*_test.py
	$(PYTEST) $(filter-out $(LONGEST),$(wildcard tests/[g-r]*_test.py))
	$(PYTEST) tests/[s-z]*_test.py

lint: .venv/complete
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
	find darts_tf tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark is written last, so an interrupted installation is taken up again by the next call.
.venv/complete: pyproject.toml requirements.txt
	@command -v '$(PYTHON)' >/dev/null || { \
	    echo 'error: $(PYTHON) is not there. Install Python 3.10 to 3.13, or name one: make PYTHON=/path/to/python3'; \
	    exit 1; } >&2
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	    echo "error: TensorFlow needs Python 3.10 to 3.13, but $(PYTHON) is $$('$(PYTHON)' -V 2>&1). Name another: make PYTHON=/path/to/python3"; \
	    exit 1; } >&2
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'error: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv'; \
	    exit 1; } >&2
	@'$(PYTHON)' -m venv .venv
# The pip that comes with Python 3.10 tries combinations of versions without an end.
	@$(PIP_INSTALL) 'pip>=25'
# Where a GPU is, requirements.txt adds NVIDIA's libraries. pip compiles bytecode in both cases, also
# where PYTHONDONTWRITEBYTECODE is set; without, every start of TensorFlow takes twice as long.
	@if nvidia-smi -L 2>/dev/null | grep -q GPU; then \
	    echo 'Installing into .venv, with GPU support: about 3.5 GB, some minutes.'; \
	    $(PIP_INSTALL) -r requirements.txt -e '.[dev]'; \
	else \
	    echo 'Installing into .venv: about 700 MB, a minute or two.'; \
	    $(PIP_INSTALL) -e '.[dev]'; \
	fi
	@touch $@
