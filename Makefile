# `make` says what there is. Nothing but Go, git, make and a C compiler (for the race detector)
# need be installed: what else a target takes is built from pinned modules, once.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO   ?= go
BIN  := $(CURDIR)/bin
SERV := $(CURDIR)/test/servers/bin

# Passed to go test, for example GOTESTFLAGS='-run TestLaw -v'.
GOTESTFLAGS ?=
# How long each fuzz target runs, and how often each benchmark.
FUZZTIME   ?= 10s
BENCHCOUNT ?= 6

##@ Use

.PHONY: help
help: ## Say what there is
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Three clusters on this machine: a tour, then yours to play with until ^C
	$(GO) run ./cmd/farcall demo

.PHONY: build
build: ## Build synchronizer, agent and farcall into ./bin
	$(GO) build -trimpath -o $(BIN)/ ./cmd/...

.PHONY: clean
clean: ## Remove ./bin and the built test servers
	rm -rf $(BIN) $(SERV)

##@ Check

.PHONY: check
check: vet lint test ## What a change must pass: formatting, vet, lint, tests

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## Format the Go code
	$(BIN)/golangci-lint fmt

.PHONY: vet
vet: ## go vet, with and without the tests that need servers
	$(GO) vet ./...
	$(GO) vet -tags real ./...

.PHONY: lint
lint: $(BIN)/golangci-lint ## The linters of .golangci.yml, formatting included
	$(BIN)/golangci-lint run --build-tags real

.PHONY: test
test: ## Tests that need no servers, with the race detector, in random order
	$(GO) vet ./...
	$(GO) test -race -shuffle=on $(GOTESTFLAGS) ./...

.PHONY: test-real
test-real: servers system ## Tests against real servers, several hosts in network namespaces among them (root)
	$(GO) test -race -tags real -run '^TestReal' -p 2 -timeout 20m $(GOTESTFLAGS) ./...

# The run is its seed: the same SEED makes the same faults at the same times. FIRST begins with a later
# episode of it, ONLY takes the kinds of faults that begin so.
EPISODES ?= 200
EACH     ?= 10
FIRST    ?= 1
ONLY     ?=
ifndef SEED
SEED     := $(shell date +%s)
endif
HISTORY  ?= $(BIN)/robustness/$(SEED)

# Whoever looks at one episode again does not wait for all the rest.
.PHONY: robustness
robustness: servers $(if $(ONLY)$(filter-out 1,$(FIRST)),,simulate mutants) ## Random faults: at least EPISODES (200), each kind EACH (10) times, of SEED; hours
	$(GO) test -v -race -tags real -run '^TestRealRobustnessSeeds$$' -timeout 0 $(GOTESTFLAGS) ./test/robustness -args \
		-robustness.episodes=$(EPISODES) -robustness.each=$(EACH) -robustness.seed=$(SEED) -robustness.first=$(FIRST) \
		-robustness.only='$(ONLY)' -robustness.history=$(HISTORY)

# MUTANTS takes those whose names match.
MUTANTS ?=

.PHONY: mutants
mutants: ## Break our own code in every way that test/mutants names: a test must notice each (minutes)
	$(GO) test -v -run '^TestMutantsAreCaught$$' -timeout 0 $(GOTESTFLAGS) ./test/mutants -args -catch -mutants='$(MUTANTS)'

# The other version is any commit that this checkout has.
OLD ?= HEAD

.PHONY: skew
skew: ## The programs of commit OLD beside those of the checkout: up, and down again
	$(GO) test -tags skew -count=1 -v -timeout 30m $(GOTESTFLAGS) -run '^TestSkew' ./test/e2e -args -old=$(OLD)

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZTIME (10s, or a count such as 5000x) each
	@$(GO) test -list '^Fuzz' ./... \
	| awk '/^Fuzz/ {name[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, name[i]; n = 0}' \
	| while read -r pkg name; do \
		echo "== $$pkg $$name"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$pkg" </dev/null; \
	done

# Packages with a TestSimulation, which takes -schedules and -seed. A schedule is its seed.
SIMULATIONS := ./synchronizer ./resolvers/intake ./agent/uplink
SCHEDULES   ?= 100000
FIRSTSEED   ?= 1

.PHONY: simulate
simulate: ## SCHEDULES (100000) random schedules of faults in simulated time, from FIRSTSEED (1) on
	$(GO) test -run '^TestSimulation$$' -count 1 -timeout 3h -v $(GOTESTFLAGS) $(SIMULATIONS) -schedules=$(SCHEDULES) -seed=$(FIRSTSEED)

.PHONY: bench
bench: $(BIN)/benchstat ## Every benchmark BENCHCOUNT (6) times, into bin/bench.txt and a summary
	$(GO) test -run '^$$' -bench . -benchmem -count $(BENCHCOUNT) $(GOTESTFLAGS) ./... | tee $(BIN)/bench.txt
	$(BIN)/benchstat $(BIN)/bench.txt

.PHONY: bench-dapr
bench-dapr: servers ## Calls through two agents beside two daprds, into bin/bench-dapr.md (root, a quiet machine)
	@mkdir -p $(BIN)
	$(GO) test -tags real -run '^$$' -bench '^BenchmarkDapr$$' -benchtime 1x -timeout 30m ./test/bench $(GOTESTFLAGS) | tee $(BIN)/bench-dapr.md

.PHONY: bench-faults
bench-faults: servers ## How long a take-over takes, and what an unchanged registry writes (minutes)
	$(GO) test -tags real -run '^$$' -bench '^Benchmark(TakeOver|Unchanged)$$' -benchtime 10x -timeout 30m ./test/bench $(GOTESTFLAGS)

.PHONY: vuln
vuln: $(BIN)/govulncheck ## Known vulnerabilities in what the code calls
	@rc=0; out=$$($(BIN)/govulncheck ./... 2>&1) || rc=$$?; echo "$$out"; \
	case $$rc in \
	0) ;; \
	3) echo "vuln: vulnerabilities found, see above" >&2; exit 3 ;; \
	*) if grep -q 'fetching vulnerabilities' <<<"$$out"; \
		then echo "vuln: the database is out of reach: nothing was checked" >&2; \
		else echo "vuln: govulncheck could not run" >&2; fi; exit $$rc ;; \
	esac

##@ Generated code

PROTO_TOOLS := $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc

.PHONY: proto
proto: $(PROTO_TOOLS) ## Lint the .proto files and generate their Go code
	cd api && PATH=$(BIN):$$PATH buf lint && PATH=$(BIN):$$PATH buf generate

.PHONY: docs
docs: ## Write the tables of docs/strategies.md that the tests generate
	$(GO) test ./strategy -run TestDocs -update

# It generates into a folder of its own and compares, so that it neither changes the checkout
# nor minds changes that are not committed yet.
.PHONY: check-generated
check-generated: $(PROTO_TOOLS) ## Fail if the generated code is not what the .proto files say, or they break what was released
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; export PATH=$(BIN):$$PATH; \
	cd api; buf lint; buf generate -o "$$tmp"; \
	sums() { (cd "$$1" && find . -name '*.pb.go' -exec cksum {} + | sort -k3); }; \
	diff <(sums .) <(sums "$$tmp") || { echo "generated code is out of date: run make proto" >&2; exit 1; }; \
	buf breaking --path farcall --against $(RELEASED) \
	|| { echo "the .proto files break what was released: see api/released/README.md" >&2; exit 1; }

# What a release does with these is said in api/released/README.md.
RELEASED := released/v1.binpb
RELEASE  ?=

.PHONY: released
released: $(BIN)/buf ## Write api/released: the .proto files as they are now are released
	cd api && $(BIN)/buf breaking --path farcall --against $(RELEASED)
	cd api && $(BIN)/buf build --path farcall --exclude-source-info -o $(RELEASED)

.PHONY: golden
golden: ## Write the golden files of a RELEASE that changed the released schema
	$(GO) test ./test/skew -count=1 -run '^TestWriteGoldenFiles$$' -args -write=$(RELEASE)

##@ Tools and servers, built when missing or when their versions change

.PHONY: tools
tools: $(PROTO_TOOLS) $(BIN)/golangci-lint $(BIN)/govulncheck $(BIN)/benchstat ## Build every tool into ./bin

.PHONY: servers
servers: $(addprefix $(SERV)/,etcd etcdctl etcdutl consul kube-apiserver coredns daprd sdk) ## Build the servers that test-real starts (minutes, once)

# Each is a command, and the Debian package that it is in. The packages' own services are not
# started: the tests start what they need.
SYSTEM := ip=iproute2 dbus-daemon=dbus avahi-daemon=avahi-daemon avahi-publish=avahi-utils named=bind9

.PHONY: system
system: ## Debian packages that test-real needs, installed where they are missing (root)
	@missing=(); PATH=$$PATH:/usr/sbin:/sbin; \
	for s in $(SYSTEM); do command -v "$${s%%=*}" >/dev/null || missing+=("$${s#*=}"); done; \
	if (( $${#missing[@]} )); then \
		echo "installing $${missing[*]}"; \
		export DEBIAN_FRONTEND=noninteractive; \
		install() { apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null; }; \
		install || { apt-get -qq update && install; } \
		|| { echo "make test-real needs these Debian packages: $${missing[*]}" >&2; exit 1; }; \
	fi

# $(call tool,folder,binary,package,flags) builds a package of the module in folder.
define tool
$(2): $(1)/go.mod $(1)/go.sum
	$(GO) build -C $(1) -trimpath $(4) -o $$@ $(3)
endef

$(eval $(call tool,internal/tools/proto,$(BIN)/buf,github.com/bufbuild/buf/cmd/buf))
$(eval $(call tool,internal/tools/proto,$(BIN)/protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go))
$(eval $(call tool,internal/tools/proto,$(BIN)/protoc-gen-go-grpc,google.golang.org/grpc/cmd/protoc-gen-go-grpc))
$(eval $(call tool,internal/tools/lint,$(BIN)/golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint))
$(eval $(call tool,internal/tools/vuln,$(BIN)/govulncheck,golang.org/x/vuln/cmd/govulncheck))
$(eval $(call tool,internal/tools/benchstat,$(BIN)/benchstat,golang.org/x/perf/cmd/benchstat))
$(eval $(call tool,test/servers/etcd,$(SERV)/etcd,go.etcd.io/etcd/server/v3))
$(eval $(call tool,test/servers/etcd,$(SERV)/etcdctl,go.etcd.io/etcd/etcdctl/v3))
$(eval $(call tool,test/servers/etcd,$(SERV)/etcdutl,go.etcd.io/etcd/etcdutl/v3))
$(eval $(call tool,test/servers/consul,$(SERV)/consul,github.com/hashicorp/consul))
$(eval $(call tool,test/servers/kubernetes,$(SERV)/kube-apiserver,k8s.io/kubernetes/cmd/kube-apiserver))
$(eval $(call tool,test/servers/coredns,$(SERV)/coredns,github.com/coredns/coredns))
$(eval $(call tool,test/servers/dapr,$(SERV)/daprd,github.com/dapr/dapr/cmd/daprd,-tags stablecomponents))
# An application that is written with Dapr's SDK; its code is here.
$(eval $(call tool,test/servers/sdk,$(SERV)/sdk,.))
$(SERV)/sdk: test/servers/sdk/main.go
