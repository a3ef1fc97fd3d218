# Two commands do all the set-up on a fresh machine with Python >= 3.11 and a C++ compiler:
#   make demo    install, convert the shipped demo model, run it within a memory budget
#   make test    install what the tests need, and run them all
# and one more builds the documentation:
#   make docs    the site, into build/site
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The Python files are used where they lie (an editable install), so only what is compiled asks for another one.
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find runtime/src runtime/include runtime/onnx -name '*.cpp' -o -name '*.h' -o -name '*.inc')

.PHONY: demo test docs lint format fuzz clean

$(VENV)/installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/installed
	mkdir -p out
	$(BIN)/edgekit convert examples/demo_model/checkpoint -o out/demo.edgekit --overwrite
	$(BIN)/edgekit run out/demo.edgekit -p "Once upon a time" -n 120 --ram 2500K --temp 0

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

docs: $(VENV)/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python -m docs.make_cli
	$(BIN)/python -m mkdocs build --strict

lint: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q tests/test_project.py

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(shell find runtime -name '*.cpp' -o -name '*.h')

# make fuzz [TARGET=json|manifest|bundle|session] [SECONDS=N]: until Ctrl-C, or for so long; needs clang
fuzz: $(VENV)/installed-dev
	cmake -S . -B build/fuzz -DEDGEKIT_BUILD_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	cmake --build build/fuzz --target fuzz_targets -j 2
	$(BIN)/python -m tests.fuzz.forever build/fuzz "$(TARGET)" $(SECONDS)

clean:
	rm -rf $(VENV) build out
