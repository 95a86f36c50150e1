PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test handbook handbook-outputs handbook-links prediction clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/capcheck survey --data digits --out runs/digits

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# The handbook as a site in build/handbook; warnings are errors.
handbook: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -b html reports/handbook build/handbook

# Every output and picture of the handbook, made again.
handbook-outputs: .venv/installed
	OMP_NUM_THREADS=1 CAPCHECK_WORKERS=1 $(BIN)/python -m tests.handbook.refresh

# Whether links to other sites lead somewhere, which needs a network.
handbook-links: .venv/installed
	$(BIN)/python -m sphinx -b linkcheck reports/handbook build/handbook-links

# Predictions, trainings and their comparison, in half an hour.
prediction: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m prediction

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "capcheck needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
