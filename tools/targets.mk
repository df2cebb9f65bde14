# Targets that are not the build itself.
.PHONY: check check-unit print-tests
# Everything a user's machine can show. PW_NO_SAN=1 leaves the sanitizer builds out.
check: pw plugins $(TESTS) $(B)/demo
	@JOBS=$(JOBS) tools/check $(B) $(TESTS)
# Unit tests alone.
check-unit: $(TESTS)
	@for t in $(TESTS); do echo "== $$(basename $$t)"; $$t; done
print-tests:
	@echo $(TESTS)

# ---- the demo ----
.PHONY: demo demo-base demo-data
demo: pw $(B)/demo
	@tools/demo/run $(B)/demo

# Makes the committed weights of the demo again: text, tokenizer, a base trained from random weights. About 20 minutes on two cores.
demo-base: pw $(B)/demo
	@tools/demo/make_base $(B)/demo
demo-data: $(B)/demo
	@mkdir -p tools/demo/pennyford
	$(B)/demo town train 7 > tools/demo/town-train.jsonl
	$(B)/demo town shuffled 7 > tools/demo/town-shuffled.jsonl
	$(B)/demo town test 7 > tools/demo/pennyford/test.jsonl

layers:
	@tools/check_layers
walls:
	@tools/check_walls
	@tests/bad/run.sh --places
clean:
	rm -rf build pw
help:
	@sed -n 's/^## //p' tools/targets.txt
# Every check must find the mistake planted for it.
.PHONY: check-bad print-B
check-bad:
	@JOBS=$(JOBS) tests/bad/run.sh
print-B:
	@echo $(B)
config:
	@tools/config

# ---- builds ----
.PHONY: debug asan tsan install
debug:
	@$(MAKE) --no-print-directory DEBUG=1 pw
asan:
	@$(MAKE) --no-print-directory SAN=address pw tests
tsan:
	@$(MAKE) --no-print-directory SAN=thread pw tests
# Plugins go where the program looks for them: cards, MPI, the emulation.
install: pw plugins
	install -D -m 755 $(B)/pw $(DESTDIR)$(PREFIX)/bin/pennyweight
	ln -sf pennyweight $(DESTDIR)$(PREFIX)/bin/pw
	for f in $(B)/libpw_*.so; do install -D -m 755 "$$f" $(DESTDIR)$(PREFIX)/lib/pennyweight/"$${f##*/}"; done

# ---- the manual, from the option tables and the recipe's rows ----
.PHONY: docs check-docs
docs: pw
	@./pw help manual > docs/commands.md
	@./pw recipe docs > docs/recipe.md
check-docs: pw
	@./pw help manual | diff - docs/commands.md && ./pw recipe docs | diff - docs/recipe.md || { echo "docs/ is not current: run 'make docs'"; exit 1; }

# ---- CUDA kernels on the processor: the whole table in three orders of the threads, the emulation's own tests, planted mistakes.
# SAN=address or thread: the reduced table and the emulation's own tests. ----
.PHONY: check-simt
SIMT_TESTS := $(addprefix $(B)/tests/,test_simt test_op_device test_op_codes test_op)
check-simt: $(SIMT_TESTS)
	@JOBS=$(JOBS) tools/check_simt "$(SAN)" $(SIMT_TESTS)

# ---- CUDA kernels for cards: everything for CUDA_ARCHS, warnings are errors; kernels/cuda/hot.txt against what the compiler says ----
.PHONY: cuda cuda-report cuda-objects
RELEASE_ARCHS := 80 90 120
CUDA_FOR = $(if $(filter file,$(origin CUDA_ARCHS)),$(RELEASE_ARCHS),$(CUDA_ARCHS))
cuda:
	@[ -n "$(NVCC)" ] || { echo "make cuda needs nvcc of CUDA 12.8 or later" >&2; exit 1; }
	@$(MAKE) --no-print-directory CUDA_ARCHS="$(CUDA_FOR)" cuda-objects
# The test kernels too, so that every PTX wrapper is assembled.
cuda-objects: $(CUDA_DIR)/libpw_cuda.so $(CUDA_DIR)/tests/simt_kernels.o
	@echo "$(CUDA_DIR)/libpw_cuda.so: $(foreach a,$(CUDA_ARCHS),sm_$(a)) and PTX"
cuda-report: cuda
	@tools/cuda_report "$(CUDA_FOR)" $(B)/cuda-$(subst $(space),-,$(CUDA_FOR))

# A folder for a machine with a card: gpu-pack/run there runs every kernel on it (tools/gpu/run). Its tests are one program, `tests NAME`, so that the
# libraries of the project are in the folder once; the Debian-like machine that packs needs the static libopenblas.a (tools/gpu/pack says why).
.PHONY: gpu-pack
GPU_TESTS := test_op test_op_device test_cuda_linear test_attn_rows test_attn_choices test_pages test_cache test_capture test_stream test_op_experts test_sample test_quant_device test_train_device
gpu-pack: cuda $(B)/libpw_simt.so pw $(B)/gpu/tests
	@tools/gpu/pack $(B) $(B)/cuda-$(subst $(space),-,$(CUDA_FOR))
$(B)/gpu/%.o: $(B)/tests/%.o
	@mkdir -p $(@D)
	@objcopy --redefine-sym main=main_$* $< $@
$(B)/gpu/tests.c: tools/targets.mk
	@mkdir -p $(@D)
	@{ echo '#include <stdio.h>'; echo '#include <string.h>'; printf 'int main_%s(void);\n' $(GPU_TESTS); echo 'int main(int n, char **a) {'; \
	   printf 'if (n == 2 && !strcmp(a[1], "%s")) return main_%s();\n' $(foreach t,$(GPU_TESTS),$(t) $(t)); echo 'return fputs("tests NAME: no such test\n", stderr), 2; }'; } > $@
$(B)/gpu/tests: $(B)/gpu/tests.c $(GPU_TESTS:%=$(B)/gpu/%.o) $(TEST_HELP:%.c=$(B)/%.o) $(B)/libpw.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(LIBS)

# ---- training beside PyTorch + peft on this machine, by turns (tools/bench_peers says how; PEERS="--only 100M": a part of it) ----
.PHONY: bench-peers
bench-peers: pw
	@tools/bench_peers $(PEERS)

# ---- live comparison with the Python packages (tools/reference/run says how) ----
.PHONY: check-reference
check-reference: pw
	@tools/reference/run

# ---- speed and memory, measured: prints the tables of docs/bench.md ----
.PHONY: bench
bench: pw
	@tools/bench

# ---- fuzzing: libFuzzer on every target of tests/fuzz_targets.c, FUZZ_SECONDS each ----
FUZZ_SECONDS ?= 20
.PHONY: fuzz
fuzz:
	@command -v clang-14 > /dev/null || { echo "make fuzz needs clang: apt-get install clang-14 libclang-rt-14-dev" >&2; exit 1; }
	@tools/fuzz "$(FUZZ_SECONDS)" "$(PKG_CFLAGS)" "$(PKG_LIBS)"
