# The project's own commands. "make test" and "make demo" are the first two to know.

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILT_AT    ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
LDFLAGS      = -s -w -X main.version=$(VERSION) -X main.builtAt=$(BUILT_AT)

STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK  = golang.org/x/vuln/cmd/govulncheck@v1.8.0

# How long "make fuzz" spends on each target.
FUZZTIME    ?= 30s

.PHONY: bench screenshots build demo test slow check vet staticcheck modules layout cross size vuln fuzz mutants qemu judge lab lab-full clean

build: ## the program for this machine: ./sessio
	testdata/build.sh '$(LDFLAGS)' -o sessio

demo: build ## coordinator, device and client on loopback, as a person would set them up
	testdata/demo.sh ./sessio

# Most tests wait for other processes: four at a time use two cores well. A
# process with the race detector sleeps a second before it ends, unless told.
test: ## every test, with the race detector
	testdata/tools.sh test
	GORACE=atexit_sleep_ms=0 testdata/gotest.sh -race -parallel 4 -timeout 20m ./...

slow: ## what takes minutes: mutants, fuzzing, foreign processors, the lab
	testdata/tools.sh slow
	$(MAKE) mutants fuzz qemu judge lab

check: ## format, vet, staticcheck, layout, linked modules, cross builds
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; exit 1; fi
	$(MAKE) vet staticcheck layout modules cross

vet:
	$(GO) vet ./...
	GOARCH=arm $(GO) vet .
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) build -tags router -o /dev/null .
	$(GO) vet -C testdata/hub .
	$(GO) vet -C testdata/pebble .
	$(GO) vet -C testdata/otlp .
	$(GO) vet -C testdata/yaml .
	$(GO) vet -C testdata/pkgsftp .

# An address with a version leaves go.mod alone.
staticcheck:
	$(GO) run $(STATICCHECK) ./...
	$(GO) run -exec "env GOOS=windows" $(STATICCHECK) -checks inherit,-U1000 -tests=false ./...

layout:
	$(GO) test -run '^TestLayout' .

modules: ## only these may be in the binary
	testdata/modules.sh

cross: ## the program for every system it is made for: dist/
	testdata/cross.sh '$(LDFLAGS)'

size: cross ## figures against budgets; fails above
	testdata/tools.sh size
	testdata/size.sh

vuln: ## known vulnerabilities; needs the internet
	$(GO) run $(GOVULNCHECK) ./...

fuzz: ## each fuzz target for FUZZTIME
	testdata/fuzz.sh $(FUZZTIME)

mutants: ## each check of the trust log removed in turn: the tests must notice
	testdata/mutants/run.sh

qemu: ## the demo's walkthrough on emulated mipsle and arm
	testdata/qemu.sh '$(LDFLAGS)'

# With the scripts and the judge's quick tests: here the built program takes them.
# A million datagrams of junk and 100 MB each way are among them: a minute.
judge: build ## the program as built, with stock clients, kill -9 and /proc
	testdata/tools.sh judge
	SESSIO_SLOW=1 SESSIO_BIN=$(CURDIR)/sessio testdata/gotest.sh -parallel 4 -timeout 25m -v -run '^(TestScripts|TestJudge|TestSlow|TestAttackFlood|TestAttackCoordinatorSees)' .

# ROUNDS and MIB choose between minutes and precision.
ROUNDS ?= 3
MIB    ?= 1024
# In memory where there is room for eight GB, so that no disk is measured.
bench: build ## speed and memory beside stock OpenSSH in one run, against budgets: half an hour
	testdata/tools.sh judge
	if [ "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 8000000 ]; then export GOTMPDIR=/tmp TMPDIR=/dev/shm; fi; \
	SESSIO_BENCH=$(ROUNDS) SESSIO_BENCH_MIB=$(MIB) SESSIO_BIN=$(CURDIR)/sessio testdata/plain.sh $(GO) test -count 1 -timeout 40m -v -run '^TestBench$$' .

screenshots: ## the pages as a browser shows them, wide and as a phone: dist/screenshots
	testdata/tools.sh test
	SESSIO_SHOTS=$(CURDIR)/dist/screenshots $(GO) test -count 1 -run '^TestBrowser' .

# As root, Linux only: network namespaces, nftables, TUN. Tables and the logs of
# failures are left in dist/lab.
lab: build ## real NATs: a few minutes; a part of it is in "make test" when that is root
	testdata/tools.sh lab
	SESSIO_LAB=short SESSIO_BIN=$(CURDIR)/sessio testdata/gotest.sh -count 1 -timeout 30m -v -run '^TestLab' .

lab-full: build ## all pairs of NATs twenty times, all moves fifty times: hours
	testdata/tools.sh lab
	SESSIO_LAB=full SESSIO_BIN=$(CURDIR)/sessio testdata/plain.sh $(GO) test -count 1 -timeout 6h -v -run '^TestLab' .

clean:
	rm -rf sessio dist
