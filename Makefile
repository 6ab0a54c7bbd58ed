# Two commands do everything on a bare machine with Python >= 3.11, git and make:
#   make demo    sets up, and runs the main job on the clip that ships
#   make test    sets up, and runs the checks and the tests
# and make docs sets up, and builds the documentation.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check label-studio docs reference clean
unexport PYTHONDONTWRITEBYTECODE  # of the packages to test, only what is imported is compiled

demo: .venv/ready
	$(BIN)/annotate demo

test: .venv/ready-to-test
	$(MAKE) --jobs=2 check label-studio
	$(BIN)/pytest -n 2 --dist worksteal --durations=20

check: .venv/ready-to-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# without a network its tests are skipped
label-studio: .venv/ready-to-test
	-@$(BIN)/python -c "from annotate.labelstudio import install; install.ensure_program(print)"

docs: .venv/ready-for-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	@echo "the documentation is in build/site/index.html"

# the reference of commands is generated, and kept in git
reference: .venv/ready
	$(BIN)/typer annotate.cli.app utils docs --name annotate --output docs/reference/commands.md

clean:
	rm -rf .venv demo

.venv/bin/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/ready: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/ready-for-docs: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@ .venv/ready

# sam2 is built against the torch that is there, without its CUDA extension
.venv/ready-to-test: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --no-compile torch torchvision setuptools wheel
	SAM2_BUILD_CUDA=0 $(BIN)/pip install --quiet --no-compile --no-build-isolation sam2
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	$(BIN)/pip install --quiet --no-compile --no-deps moondream==2.6.1
	touch $@ .venv/ready
