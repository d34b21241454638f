# make demo    the main job, shown: an all-reduce over four paths, one of them cut and healed
# make test    everything that can be tested here (CI calls this)
# make check   the everyday subset, under five minutes
# make test-roce   sessions, the plugin's tables and the simulator's parity over real RoCE queue pairs, in a guest kernel
#                  (needs root; 4 minutes)
# make bench   measured beside NCCL's own Socket transport, in one run
# make bench-roce   the same beside NCCL's IB transport, over soft-RoCE in the guest
# make gpu-check   beside it once more, under PyTorch's NCCL on a GPU that two ranks share (without one: SKIPPED, status 2)
# make install PREFIX=/usr/local

SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
PLUGIN := target/release/libnccl_net_thalweg.so

.PHONY: demo test test-roce test-roce-nccl check bench bench-roce gpu-check install build setup lab-tools lint unit twin benches loom miri lab-tests deny names clean

build: setup
	$(CARGO) build --release --locked --workspace
	@$(MAKE) --no-print-directory names

# The names under which NCCL and RCCL look for the plugin.
names:
	@ln -sf libnccl_net_thalweg.so target/release/libnccl-net-thalweg.so
	@ln -sf libnccl_net_thalweg.so target/release/librccl-net-thalweg.so

demo: setup
	$(CARGO) build --release --locked -p thalweg-nccl-plugin
	$(CARGO) build --release --locked --example net_perf --example demo
	@$(MAKE) --no-print-directory names
	target/release/examples/demo --plugin $(PLUGIN) --fabric lab/fabric.sh --picture target/demo.svg

# Installs what is missing; without root it says what to install.
setup:
	@CARGO=$(CARGO) lab/setup.sh

lab-tools: setup
	@$(MAKE) --no-print-directory -C lab
	@lab/nccl.sh >/dev/null

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked -p thalweg --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

# As released; `check` leaves that out, which is sooner built.
UNIT := --release
unit:
	$(CARGO) test $(UNIT) --locked --workspace --lib --bins --examples
	$(CARGO) test $(UNIT) --locked --test '*'
	$(CARGO) test $(UNIT) --locked -p thalweg-ffi

# Every figure of the reference that the simulator is held against, its two levels against each
# other, and the whole sweep; `unit` has one of each kind.
twin:
	$(CARGO) test --release --locked --test sim_golden --test sim_flow --test sim_sweep -- --ignored

# Each bench once, so that none rots.
benches:
	$(CARGO) test --release --locked --bench '*'

# Lock-free code under every interleaving that loom can tell apart.
loom:
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --locked --lib --no-default-features --target-dir target/loom sync

# The same code, and what it does to memory, under an interpreter that finds undefined behaviour.
miri:
	@if rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1; then \
	  cargo +nightly miri test --locked --lib --no-default-features --target-dir target/miri -- \
	    sync::journal sync::notice sync::flag sync::spsc::tests::e telemetry::histogram::tests::buckets telemetry::tests; \
	else echo "SKIPPED: miri (it needs rustup, and a nightly compiler: rustup toolchain install nightly)"; fi

lab-tests: lab-tools
	$(CARGO) test --release --locked -p thalweg-nccl-plugin --test dlopen --test layout --test lifecycle --test suite --test symbols
	$(CARGO) test --release --locked -p thalweg-nccl-plugin --test suite -- --ignored v12 # 1 GiB messages
	$(CARGO) test --release --locked -p thalweg-nccl-plugin --test lab -- --test-threads=1
	@if [ "$$(id -u)" = 0 ]; then python3 lab/test_fabric.py; else echo "SKIPPED: lab/test_fabric.py needs root"; fi
	python3 lab/test_gpu_check.py
	@lab/prometheus.sh >/dev/null || true # it says why, and the tests that they are skipped
	$(CARGO) test --release --locked --test export -- --ignored --nocapture
	CHROMIUM="$$(lab/chromium.sh || true)" $(CARGO) test --release --locked --test report -- --ignored --nocapture

# Real queue pairs: soft-RoCE in a guest under QEMU. ROCE_TESTS names tests, for those alone.
ROCE_TESTS ?=
test-roce: setup
	@if [ "$$(id -u)" != 0 ]; then echo "SKIPPED: test-roce needs root"; exit 0; fi; \
	tests() { $(CARGO) test --release --locked --no-run --message-format=json "$$@" | \
	  sed -n 's/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p'; }; \
	set -o pipefail; \
	core=$$(tests --test roce --test parity) && \
	plugin=$$(tests -p thalweg-nccl-plugin --test suite --test lifecycle) && \
	lab/roce.sh run --minutes 15 -- lab/roce-tests.sh $$core $$plugin -- $(ROCE_TESTS) || \
	  { status=$$?; [ $$status = 75 ] && echo "SKIPPED: test-roce: the guest did not boot" || exit $$status; }

# And the real NCCL over them, through the plugin: with two devices, and with one that it makes of both.
test-roce-nccl: lab-tools
	@if [ "$$(id -u)" != 0 ]; then echo "SKIPPED: test-roce-nccl needs root"; exit 0; fi; \
	$(CARGO) build --release --locked -p thalweg-nccl-plugin && \
	lab/roce.sh run --minutes 5 -- bash -c 'lab/roce-nccl.sh "$$0" && lab/roce-pci.sh lab/roce-nccl.sh "$$0"' $(PLUGIN) || \
	  { status=$$?; [ $$status = 75 ] && echo "SKIPPED: test-roce-nccl: the guest did not boot" || exit $$status; }

# Licences and advisories, where cargo-deny is installed (`cargo install cargo-deny --locked`).
deny:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check licenses bans sources; \
	else python3 lab/licences.py; fi

check: setup lint
	@$(MAKE) --no-print-directory unit UNIT=

test: setup lint deny loom miri unit twin benches lab-tests
	@$(MAKE) --no-print-directory test-roce
	@$(MAKE) --no-print-directory test-roce-nccl

bench: lab-tools
	$(CARGO) build --release --locked -p thalweg-nccl-plugin
	$(CARGO) bench --locked --bench engine
	$(CARGO) bench --locked --bench telemetry
	$(CARGO) bench --locked --bench overhead
	$(CARGO) bench --locked --bench verbs
	python3 lab/bench.py --plugin $(PLUGIN) --json target/bench.json

# BENCH_ROCE="--quick --scene latency" says what else.
bench-roce: lab-tools
	$(CARGO) build --release --locked -p thalweg-nccl-plugin
	lab/roce.sh run --minutes 30 -- python3 lab/bench_roce.py --nccl "$$(lab/nccl.sh)" --plugin $(PLUGIN) $(BENCH_ROCE)

# Builds only what is missing: the machine with the GPU may have no Rust. GPU_CHECK="--help" says what it takes.
gpu-check:
	@lab/gpu-check.sh $(GPU_CHECK)

install: build
	install -D -m 755 $(PLUGIN) $(DESTDIR)$(PREFIX)/lib/libnccl-net-thalweg.so
	ln -sf libnccl-net-thalweg.so $(DESTDIR)$(PREFIX)/lib/librccl-net-thalweg.so
	install -D -m 644 include/thalweg.h $(DESTDIR)$(PREFIX)/include/thalweg.h
	install -D -m 755 target/release/thalweg $(DESTDIR)$(PREFIX)/bin/thalweg
	install -D -m 755 target/release/libthalweg.so $(DESTDIR)$(PREFIX)/lib/libthalweg.so

clean:
	$(CARGO) clean
