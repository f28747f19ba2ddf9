# rds-csi. `make` alone lists what can be done; .ci/run calls nothing but these targets.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.NOTPARALLEL: # the tests measure time, and go already uses every core
.SUFFIXES:

# A commit without a tag gives its short hash, a tree without git "unversioned".
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS := -s -w -X srvlab.io/rds-csi/cmd/internal/program.linked=$(VERSION) -X main.linked=$(VERSION)

PROGRAMS := $(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go))
# Test-only dependencies live in modules of their own, outside the go.mod that our users get.
MODULES  := $(sort $(patsubst %/go.mod,%,$(shell find . \( -name testdata -o -path ./out \) -prune -o -name go.mod -print)))

# What is fetched once is kept outside the work tree, so that a clean checkout does not pay again.
CACHE            := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rds-csi
GOLANGCI_VERSION := v2.15.0
GOLANGCI         := $(CACHE)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint

# Debian packages: the race detector's C compiler, the VM and its initramfs, and the programs that the node driver and
# its tests run.
PACKAGES := gcc libc6-dev git \
            qemu-system-x86 busybox-static cpio kmod xz-utils \
            e2fsprogs xfsprogs util-linux dmsetup nvme-cli

# Variables that can be set on the command line.
KERNEL   ?= 6.12
KERNELS  ?= 6.1,6.12
FUZZTIME ?= 10s
ARRAYS   ?= arrays.yaml

TESTFLAGS := -count=1 -timeout 10m
# $(call record,NAME) keeps every line in out/test/NAME.log, which `make summary` counts, and shows the packages and
# whatever fails.
record = 2>&1 | tee out/test/$(1).log | sed -u -E '/^([0-9.]+ \| )? *(=== |--- PASS)/d'

##@ General

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "; print "Usage: make TARGET [VARIABLE=value]"} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z][a-z0-9-]*:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: clean
clean: ## Remove bin/ and out/; what was downloaded stays in the user's cache
	rm -rf bin out

.PHONY: packages
packages: ## Install the Debian packages that test, demo, bench and vm-shell need, where they are missing
	@missing=; for p in $(PACKAGES); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing+=" $$p"; done; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make packages: this is no Debian; install what it calls:$$missing" >&2; exit 1; fi; \
	if [ "$$(id -u)" -ne 0 ]; then \
		echo "make packages: run this first: sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; fi; \
	echo "installing:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get -q update </dev/null; apt-get -q -y install --no-install-recommends $$missing </dev/null

$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI_VERSION): about three minutes, once"
	@GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

##@ Build

.PHONY: build
build: $(PROGRAMS:%=bin/%) ## Build the programs into bin/: static, reproducible, with the version of git describe

.PHONY: always
bin/%: always # the go command knows better than make what is up to date
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

##@ Check

.PHONY: check
check: tidy generated vet lint layout ## All that can be said about the sources without running them

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint over every module, and the proof that its rules bite
	@failed=0; for m in $(MODULES); do echo "lint $$m"; \
		(cd $$m && $(GOLANGCI) run --config $(CURDIR)/.golangci.yml ./...) || failed=1; done; exit $$failed
	@RDS_TEST_GOLANGCI=$(GOLANGCI) go test $(TESTFLAGS) -tags lint -run '^TestLint' ./test/layout

.PHONY: fmt
fmt: $(GOLANGCI) ## Format all Go files the way `make lint` wants them
	@for m in $(MODULES); do (cd $$m && $(GOLANGCI) fmt --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: vet
vet: ## go vet over every module, with and without the tests that need a kernel, a VM or the linter
	@for m in $(MODULES); do for tags in "" kernel,vm,lint; do \
		echo "vet $$m$${tags:+ with $$tags}"; go -C $$m vet -tags "$$tags" ./...; done; done

.PHONY: layout
layout: ## The rules of the house: packages, import arrows, what each program links, runbooks, README
	@go test $(TESTFLAGS) ./test/layout

.PHONY: generated
generated: ## Fail if go generate changes a file
	@state() { find . \( -path ./.git -o -path ./bin -o -path ./out \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum; }; \
	before=$$(state); for m in $(MODULES); do echo "generate $$m"; go -C $$m generate ./...; done; \
	diff <(echo "$$before") <(state) || { echo "make generated: commit what go generate wrote" >&2; exit 1; }

.PHONY: tidy
tidy: ## Fail if a go.mod or go.sum is not what go mod tidy makes
	@for m in $(MODULES); do echo "tidy $$m"; go -C $$m mod tidy -diff; done

##@ Test

.PHONY: test
test: packages ## Everything: unit tests, csi-sanity, and the VM suite on both kernels; installs what it needs
	@rm -rf out/test; failed=0; \
	$(MAKE) -k test-unit test-sanity test-vm || failed=1; \
	$(MAKE) summary || failed=1; \
	exit $$failed

.PHONY: test-unit
test-unit: ## Unit tests of every module with the race detector and shuffled, and all fuzz seeds
	@mkdir -p out/test; (failed=0; for m in $(filter-out ./test/sanity,$(MODULES)); do \
		go -C $$m test $(TESTFLAGS) -v -race -shuffle=on ./... || failed=1; done; exit $$failed) $(call record,unit)

.PHONY: test-sanity
test-sanity: build ## csi-sanity for the controller, against the emulator over SSH
	@mkdir -p out/test; go -C test/sanity test $(TESTFLAGS) -v ./... $(call record,sanity)

.PHONY: test-vm
test-vm: packages build ## What needs a real kernel, in a VM with each of KERNELS: array, node driver, csi-sanity for the node
	@mkdir -p out/test; failed=0; \
	go test $(TESTFLAGS) -v -tags vm ./test/vm/machine $(call record,machine) || failed=1; \
	go run ./test/vm -kernels $(KERNELS) -suite $(call record,vm) || failed=1; \
	exit $$failed

.PHONY: summary
summary: ## Count what the last `make test` ran; fails if anything failed or nothing ran
	@awk -f test/summary.awk out/test/*.log

.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZTIME (10s)
	@for dir in $$(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(go -C $$dir test -list '^Fuzz' . | grep '^Fuzz'); do \
			echo "$$dir $$target"; go -C $$dir test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) .; done; done

.PHONY: conformance
conformance: ## The array's conformance suite against real devices: make conformance ARRAYS=arrays.yaml
	@[ -r '$(ARRAYS)' ] || { echo "make conformance: cannot read $(ARRAYS); give ARRAYS=FILE (see README.md)" >&2; exit 2; }
	@RDS_TEST_ARRAYS=$(abspath $(ARRAYS)) go test $(TESTFLAGS) -v -run '^TestConformance$$' ./driver/routeros/...

##@ See it work

.PHONY: demo
demo: packages build ## The main job, on a real kernel, through the loss of the array; writes out/demo
	@go -C test/demo run .

.PHONY: bench
bench: packages build ## What it costs, as ratios taken in one run; writes out/bench/bench.json
	@go -C test/bench run .

.PHONY: vm-shell
vm-shell: packages build ## A shell in the VM, with this machine's programs and files: make vm-shell KERNEL=6.1
	@go run ./test/vm -kernel $(KERNEL)
