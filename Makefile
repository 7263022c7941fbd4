PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup demo smoke test lab address

setup:
	@$(PYTHON) rlhf_utils/run/bootstrap.py

demo: setup  ## the whole of RLHF on the built-in model, into outputs/demo/
	@$(BIN)/rlhf run --run demo --profile demo

smoke: setup  ## the same path with a tiny random model, in minutes
	@$(BIN)/rlhf run --run smoke --profile smoke --overwrite

test: setup
	@$(BIN)/python -m pytest

lab: setup  ## JupyterLab at the project's root, with 01 open
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/01_sft.ipynb

address:  ## where the suite is public, into the notebooks' first cells and badges: make address URL=https://…
	@$(PYTHON) -m rlhf_utils.run.address "$(URL)"
