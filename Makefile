# make train   virtual environment, install, cross-entropy and AllNC on real long-tailed digits, a table and a picture
# make test    the test suite
# make lint    ruff and mypy
# make clean   remove the environments, what was built and the two trainings
#
# Another build of torch: make train TORCH=torch==2.9.1 TORCHVISION=torchvision==0.24.1, with pip's own settings
# (PIP_INDEX_URL, ...) for its index. The original OpenMMLab distributions: make test STACK=openmmlab VENV=.venv-openmmlab
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
STACK ?= onedl
VENV ?= .venv
WORK ?= work_dirs
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CE := $(WORK)/ce_digits
ALLNC := $(WORK)/allnc_digits
TABLE := $(WORK)/digits/comparison.txt

# small networks gain nothing from more threads
export OMP_NUM_THREADS ?= 2

.PHONY: train test lint clean install install-test
.DELETE_ON_ERROR:

train: $(TABLE)
	@cat $(TABLE)

test: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache $(CE) $(ALLNC) $(WORK)/digits

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo 'allnc_mm needs Python >= 3.10, but "$(PYTHON)" is none: make PYTHON=/path/to/python3.10 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo 'Python has no working venv module: install it (Debian, Ubuntu: apt install python3-venv) and try again,' \
	         'or install into an environment of your own (README.md).' >&2; exit 1; }
	@touch $@

# torch first and alone, torchvision without its wish for one build of torch; what is there by then is not replaced
$(VENV)/.installed: $(VENV)/.created setup.py pyproject.toml requirements/constraints.txt
	grep -v '^torch[=v]' requirements/constraints.txt > $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt '$(TORCH)'
	$(PIP) install --no-deps '$(TORCHVISION)'
	$(PIP) install -c $(VENV)/constraints.txt -e '.[$(STACK)]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -c $(VENV)/constraints.txt -e '.[$(STACK),test]'
	@touch $@

# an interrupted training continues; one with another config starts again
$(WORK)/%_digits/.trained: configs/%/resnet20_digits-lt.py configs/_base_/datasets/digits-lt.py \
        configs/_base_/models/resnet20_cifar.py configs/_base_/schedules/digits.py configs/_base_/default_runtime.py \
        | $(VENV)/.installed
	@if [ -e $@ ]; then rm -rf $(@D); fi
	$(BIN)/python tools/train.py $< --work-dir $(@D) --resume
	@touch $@

$(TABLE): $(CE)/.trained $(ALLNC)/.trained
	@mkdir -p $(@D)
	@echo 'Comparing both runs on the test images ...'
	@$(BIN)/python tools/analysis_tools/compare_runs.py $(CE) $(ALLNC) --out $(@D) --labels CE AllNC > $@
