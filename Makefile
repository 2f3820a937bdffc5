# Words given to make: lower-case ones are settings (task=place learner.batch_size=512), upper-case ones belong to the
# target (RUN=…), flags go in ARGS. ops/launch.py hands them on; SHOW=1 prints the command instead of running it.
.DEFAULT_GOAL := help
# A setting of the same name must not replace it.
override launch := .venv/bin/python -m ops.launch
# A goal is a sentence: make must not look for its own variables in it.
unexport goal

help: ## List what make can do
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/.ready ## Install what training and tests need into .venv

.venv/.ready: uv.lock pyproject.toml ops/setup.sh
	@sh ops/setup.sh

train-rl: setup ## Train a policy from a typed goal (goal="Put the green cube in the blue bowl.", task=reach, resume=RUN)
	@$(launch) rl.train

evaluate: setup ## Count successes of a run on fresh episodes (RUN=runs/… episodes=200)
	@$(launch) rl.evaluate RUN JSON

report: setup ## Write the report of a run again (RUN=runs/…)
	@$(launch) rl.report RUN

ab: setup ## Compare two runs on the same seeds (A=runs/… B=runs/…)
	@$(launch) rl.ab A B JSON

relabel: setup ## Give the stored episodes of a run a reward again (RUN=runs/…)
	@$(launch) rl.relabel RUN JSON

serve-rewarder: setup ## Serve the reward model (REWARDER_PORT=18080)
	@$(launch) rewarder.server

run-arm: setup ## Run one arm's worker without Ray (ARM_ID=arm01 LEARNER_URL=…)
	@$(launch) rl.actor

calibrate-camera: setup ## Find where a camera stands, from a ChArUco board (ARGS=--help)
	@$(launch) ops.calibrate_camera

tune-colours: setup ## Draw colour masks beside the frames they come from (ARGS=--help)
	@$(launch) ops.tune_colours

bench: setup ## Measure us and the alternatives in one run (JSON=bench.json ARGS="--only learner")
	@.venv/bin/python -m ops.bench $(if $(JSON),--json "$(JSON)") $(ARGS)

results-table: setup ## Write the committed results into the README; RUN=runs/… adds a run first
	@$(launch) ops.results_table RUN

mac-bootstrap: setup ## Set up a Mac beside an arm, and check that its GPU works
	@.venv/bin/python -m ops.bootstrap mac

gpu-bootstrap: setup ## Set up an NVIDIA host for the large models, and check that CUDA works
	@.venv/bin/python -m ops.bootstrap gpu

test: setup ## Run the tests (ARGS="-k guard")
	@OMP_NUM_THREADS=1 $(launch) pytest

lint: setup ## Check format, style, types, import rules, dependencies and spelling
	@.venv/bin/python -m ops.lint

check: lint test ## Run lint, then the tests

clean: ## Delete caches; .venv, runs and the journal stay
	@rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: help setup train-rl evaluate report ab relabel serve-rewarder run-arm calibrate-camera tune-colours bench \
	results-table mac-bootstrap gpu-bootstrap test lint check clean
