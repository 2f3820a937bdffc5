# Words given to make: lower-case ones are settings (task=place learner.batch_size=512), upper-case ones belong to the
# target (RUN=…), flags go in ARGS. ops/launch.py hands them on; SHOW=1 prints the command instead of running it.
.DEFAULT_GOAL := help
# A setting of the same name must not replace it.
override launch := .venv/bin/python -m ops.launch
# A goal is a sentence: make must not look for its own variables in it.
unexport goal

help: ## List what make can do
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/.ready ## Install what training on simulated arms needs into .venv

setup-arm: .venv/.ready-arm ## Add LeRobot's driver, cameras and datasets, for arms on a bus

setup-serve: .venv/.ready-serve ## Add the large models: LeRobot's policies, transformers, timm

.venv/.ready: uv.lock pyproject.toml ops/setup.sh
	@sh ops/setup.sh

.venv/.ready-arm: uv.lock pyproject.toml ops/setup.sh
	@sh ops/setup.sh arm

.venv/.ready-serve: uv.lock pyproject.toml ops/setup.sh
	@sh ops/setup.sh arm serve

train-rl: $(if $(filter emulated real,$(arm)),setup-arm,setup) $(if $(filter embedded blend ladder qwen lerobot,$(reward)),setup-serve) ## Train a policy from a typed goal (goal="Put the green cube in the blue bowl.", task=reach, resume=RUN, learner=rlpd, learner=residual policy.noise=0.25)
	@$(launch) rl.train

evaluate: setup ## Count successes of a run on fresh episodes (RUN=runs/… episodes=200)
	@$(launch) rl.evaluate RUN JSON

report: setup ## Write the report of a run again (RUN=runs/…)
	@$(launch) rl.report RUN

ab: setup ## Compare two runs on the same seeds (A=runs/… B=runs/…)
	@$(launch) rl.ab A B JSON

pretrain: setup-serve ## Teach a policy from recordings (DATASET=… POLICY=act|diffusion|bc OUT=… size=small)
	@$(launch) rl.pretrain DATASET POLICY OUT

dataset-steps: setup-serve ## Make a run folder of a dataset, to be labelled and learnt from (DATASET=… goal="…")
	@$(launch) rl.dataset_steps DATASET

prefer: setup ## Teach a run's policy by pairs of its episodes (RUN=runs/… PAIRS=FILE|scores|truth OUT=FOLDER)
	@$(launch) rl.prefer RUN PAIRS OUT

prefer-tokens: setup-serve ## Teach an OpenVLA or pi0-FAST by pairs of chunks (BASE=FOLDER PAIRS=FILE OUT=FOLDER)
	@$(launch) policy_server.token_preference BASE PAIRS OUT

reality-gap: setup ## Try a policy on twins that differ in one thing each (RUN=runs/… episodes=100 preset=compliant)
	@$(launch) rl.reality_gap RUN JSON

gates: setup ## Say which gates the committed results pass (world=twin|emulated|bench JSON=path)
	@$(launch) rl.gates JSON

weekly: setup ## Build one page over all evaluations (OUT=FOLDER)
	@$(launch) rl.weekly OUT

grounding: setup ## Measure whether a policy follows its sentence (RUN=runs/… pairs=20)
	@$(launch) rl.grounding RUN JSON

improve: setup ## Promote a run where it is surely better than the deployed version (RUN=runs/… pairs=100; rollback=1 goal="…")
	@$(launch) rl.improve RUN

relabel: setup ## Give the stored episodes of a run a reward again (RUN=runs/…)
	@$(launch) rl.relabel RUN JSON

serve-rewarder: $(if $(filter embedded blend ladder qwen lerobot,$(REWARD) $(reward)),setup-serve,setup) ## Serve the reward model (REWARD=qwen MODEL=Qwen/Qwen3-VL-8B-Instruct; REWARDER_PORT=18080)
	@$(launch) rewarder.server REWARD

label: setup ## Have people judge clips of a run in a browser (RUN=runs/… PAIRS=40 raters=anna,ben)
	@$(launch) rl.label_run RUN PAIRS

agreement: setup-serve ## Measure how far a reward model agrees with labelled clips (REWARD=embedded SET=twin200)
	@$(launch) rewarder.agree REWARD SET JSON

calibrate-reward: setup-serve ## Fit a reward model's probabilities and threshold to labelled clips (REWARD=embedded SET=twin50)
	@$(launch) rewarder.calibrate REWARD SET

unfreeze: setup ## Let a run learn on that the alarm has frozen (RUN=runs/… why="…")
	@$(launch) rl.unfreeze RUN

ab-reward: setup-serve ## Train with two rewards on the same seeds and compare them on ground truth (A=heuristic B=embedded task=lift seeds=0,1)
	@$(launch) rl.ab_reward A B JSON

train-classifier: setup ## Train a small network that judges pictures of this bench (DATA=FOLDER OUT=FOLDER)
	@$(launch) rewarder.train_classifier DATA OUT

train-preference: setup ## Learn a reward from pairs that people and models have judged (RUN=runs/… OUT=FOLDER)
	@$(launch) rewarder.train_preference RUN OUT

train-embedded-vlm: setup-serve ## Train the small Qwen3-VL that comes along, on the simulated arm (OUT=FOLDER minutes=30)
	@$(launch) ops.train_embedded OUT

reward-sets: setup ## Film a set of clips of the simulated arm with its ground truth (out=FOLDER n=50 seed=5000000)
	@$(launch) ops.reward_sets

serve-pi: setup-serve ## Serve a policy to any number of arms (POLICY=scripted:place or a folder; POLICY_SERVER_PORT=8080)
	@$(launch) policy_server.server

finetune: setup-serve ## Fine-tune a large policy on recordings of this arm (POLICY=act DATASET=… OUT=… STEPS=… BASE=…)
	@$(launch) rl.finetune POLICY DATASET OUT STEPS BASE

ping-policy: setup ## Show where the time goes between a policy server and an arm (url=ws://host:8080 n=50)
	@$(launch) policy_server.ping

run-arm: $(if $(filter emulated real,$(arm)),setup-arm,setup) ## Run one arm's worker without Ray (ARM_ID=arm01 LEARNER_URL=…)
	@$(launch) rl.actor

emulate: setup-arm ## Emulate the servos of arms on pseudo-terminals, moved by the simulated arm (ARMS=4 LEADERS=1)
	@$(launch) robot.emulator.emulate ARMS LEADERS

move-leader: setup-arm ## Move an emulated leader arm by keys, as a hand would
	@$(launch) robot.emulator.hand

arm: setup-arm ## Run the process that owns one arm: guard, modes, cameras, address (ARM_ID=arm01)
	@$(launch) robot.process.daemon ARM_ID

doctor: setup-arm ## Say what is wrong with this set-up, and the line that mends it (ARM_ID=arm01)
	@$(launch) robot.doctor.main ARM_ID JSON

calibrate: setup-arm ## Calibrate an arm by hand, joint by joint (ARM_ID=arm01)
	@$(launch) robot.doctor.calibrate ARM_ID

dashboard: setup-arm ## Show arms, cameras, safety state and learning in a browser (ARMS=arm01,arm02)
	@$(launch) rl.live_dashboard ARMS

takeover: setup-arm ## Move an arm by hand: keyboard, gamepad or leader arm (ARM_ID=arm01 device=keyboard)
	@$(launch) robot.teleop.takeover ARM_ID

home: setup-arm ## Move an arm to where its episodes start (ARM_ID=arm01 dataset=…)
	@do=home $(launch) robot.teleop.motions ARM_ID do

park: setup-arm ## Fold an arm to rest and switch its torque off (ARM_ID=arm01)
	@do=park $(launch) robot.teleop.motions ARM_ID do

jog: setup-arm ## Move an arm joint by joint (ARM_ID=arm01 joint=elbow_flex by=5)
	@do=jog $(launch) robot.teleop.motions ARM_ID do

record: setup-arm ## Record episodes of a person into a dataset (ARM_ID=arm01 goal="…" dataset=…)
	@$(launch) robot.recording.record ARM_ID

record-scripted: setup-arm ## Record the scripted expert on a simulated arm (goal="…" dataset=…)
	@$(launch) rl.record_scripted

dataset-export: setup-arm ## Write a dataset from its journal (dataset=… actions=absolute)
	@$(launch) robot.recording.dataset

dataset-check: setup-arm ## Say what is wrong with a dataset, and how well its arm moved (dataset=…)
	@$(launch) robot.recording.dataset_check JSON

dataset-repair: setup-arm ## Build a dataset again from its journal (dataset=…)
	@$(launch) robot.recording.dataset_repair

hf-login: setup-arm ## Log in to the Hugging Face hub
	@do=login $(launch) robot.recording.hub do

hub-push: setup-arm ## Show what a push of a dataset or a policy would upload; really=yes does it (dataset=…|policy=FOLDER repo=…)
	@do=push $(launch) robot.recording.hub do

nightly-copy: ## Copy recordings to the GPU host (GPU_HOST=user@host GPU_FOLDER=…)
	@sh ops/nightly_copy.sh

safety: setup-arm ## Measure every promise of safety, and print them as a table (QUICK=1 JSON=…)
	@$(launch) ops.safety QUICK JSON

chaos: setup-arm ## Four emulated arms under faults and evil policies, judged (MINUTES=10 SEED=7 JSON=…)
	@$(launch) ops.chaos MINUTES SEED ARMS JSON

calibrate-camera: setup ## Find where a camera stands, from a ChArUco board (ARGS=--help)
	@$(launch) ops.calibrate_camera

tune-colours: setup ## Draw colour masks beside the frames they come from (ARGS=--help)
	@$(launch) ops.tune_colours

bench: setup-arm ## Measure us and the alternatives in one run (JSON=bench.json ARGS="--only learner")
	@.venv/bin/python -m ops.bench $(if $(JSON),--json "$(JSON)") $(ARGS)

bench-rtc: setup-arm ## Place on emulated arms by a served policy, with and without Real-Time Chunking (steps=8000)
	@$(launch) ops.bench_rtc JSON

serve-simulation: setup ## Predict how many arms a policy server keeps in rows, and check it (arms=1,4,64 check=1 JSON=…)
	@$(launch) ops.serve_simulation JSON

bench-policy-preferences: setup ## Labels into the policy, or by way of a reward; the person is simulated (RUN=runs/… JSON=…)
	@$(launch) ops.bench_policy_preferences RUN JSON

bench-alarm: setup ## Train on a reward that can be fooled, with and without the alarm (JSON=…)
	@$(launch) ops.bench_alarm JSON

bench-preferences: setup ## Measure how many pairs a person has to judge; all raters are simulated (task=place JSON=…)
	@$(launch) ops.bench_preferences JSON

bench-serve: setup-arm ## Measure the policy server beside openpi's and LeRobot's (JSON=serve.json ARGS="--only one crowd --minutes 10")
	@.venv/bin/python -m ops.bench_serve $(if $(JSON),--json "$(JSON)") $(ARGS)

fuzz-wire: setup ## Feed the policy server's decoder hostile frames (N=10000000 SEED=0 JOBS=2)
	@$(launch) ops.fuzz_wire N SEED JOBS

results-table: setup ## Write the committed results into the README; RUN=runs/… adds a run first
	@$(launch) ops.results_table RUN

mac-bootstrap: setup ## Set up a Mac beside an arm, and check that its GPU works
	@.venv/bin/python -m ops.bootstrap mac

gpu-bootstrap: setup ## Set up an NVIDIA host for the large models, and check that CUDA works
	@.venv/bin/python -m ops.bootstrap gpu

test: setup-serve ## Run the tests (ARGS="-k guard")
	@OMP_NUM_THREADS=1 $(launch) pytest

lint: setup-serve ## Check format, style, types, import rules, dependencies and spelling
	@.venv/bin/python -m ops.lint

check: lint test ## Run lint, then the tests

clean: ## Delete caches; .venv, runs and the journal stay
	@rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: help setup setup-arm setup-serve train-rl evaluate report ab pretrain dataset-steps prefer prefer-tokens reality-gap gates weekly grounding improve relabel serve-rewarder label agreement calibrate-reward unfreeze ab-reward \
	train-classifier train-preference train-embedded-vlm reward-sets serve-pi finetune ping-policy run-arm emulate move-leader arm doctor calibrate dashboard takeover \
	home park jog record record-scripted dataset-export dataset-check dataset-repair hf-login hub-push nightly-copy safety chaos calibrate-camera tune-colours \
	bench bench-rtc bench-preferences bench-policy-preferences bench-alarm bench-serve fuzz-wire serve-simulation results-table mac-bootstrap gpu-bootstrap test lint check clean
