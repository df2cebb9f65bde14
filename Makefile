# Pennyweight. `make help` lists the targets. Objects live in build/<hash of flags>/, so builds of different kinds never mix.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# ---- what can be set ------------------------------------------------------------------------------------------------
CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
DEBUG ?=
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(JOBS)
endif

# ---- packages -------------------------------------------------------------------------------------------------------
# Nothing but help and clean can be done without them; tools/bootstrap installs what is missing on a Debian-like machine.
NO_DEPS := help clean layers walls config
ifneq ($(filter-out $(NO_DEPS),$(or $(MAKECMDGOALS),all)),)
ifeq ($(PW_BOOTSTRAPPED),)
ifneq ($(shell tools/bootstrap --quiet >&2 && echo ok),ok)
$(error packages are missing, see above)
endif
export PW_BOOTSTRAPPED := 1
endif
PKGS := hdf5 jansson yaml-0.1 libpcre2-8 libutf8proc openblas sqlite3 libzstd libsodium
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS))
PKG_LIBS := $(shell pkg-config --libs $(PKGS))
MPI := $(firstword $(shell for m in mpi-c ompi-c mpich; do pkg-config --exists $$m 2>/dev/null && echo $$m; done))
CHECK_CFLAGS := $(shell pkg-config --cflags check)
CHECK_LIBS := $(shell pkg-config --libs check)
endif

# ---- flags ----------------------------------------------------------------------------------------------------------
VERSION := $(shell cat tools/version.txt)
OPT := -O2
SANFLAGS :=
ifeq ($(SAN),address)
OPT := -O1
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifeq ($(SAN),thread)
OPT := -O1
SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
endif
ifneq ($(DEBUG),)
OPT := -Og
endif
# No contraction: the same source gives the same bits under every optimisation level. Kernels ask for FMA by name.
CFLAGS = -std=c11 -D_GNU_SOURCE -DPW_VERSION='"$(VERSION)"' -I. -g $(OPT) -fopenmp -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror \
         -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-missing-field-initializers $(SANFLAGS) $(PKG_CFLAGS) $(EXTRA_CFLAGS)
LDFLAGS = -rdynamic -fopenmp $(SANFLAGS)
LIBS = $(PKG_LIBS) -lm -ldl -lpthread

HASH := $(shell echo '$(CC) $(CFLAGS) $(LDFLAGS) $(LIBS)' | sha256sum | cut -c1-12)
B := build/$(HASH)

# ---- sources --------------------------------------------------------------------------------------------------------
LAYERS_DIRS := base kernels kernels/ref kernels/cpu data quant lora infer train eval
# train/comm.c is MPI's plugin, built where a package of MPI is found.
LIB_SRC := $(filter-out train/comm.c,$(foreach d,$(LAYERS_DIRS),$(wildcard $(d)/*.c)))
TOOL_SRC := $(wildcard tools/*.c)
TEST_SRC := $(wildcard tests/test_*.c)
TEST_HELP := $(filter-out $(TEST_SRC),$(wildcard tests/*.c))
EMBED := $(wildcard recipes/*.yaml eval/tasks/*.yaml docs/pages/*)
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o) $(B)/embedded.o
TOOL_OBJ := $(TOOL_SRC:%.c=$(B)/%.o)
TESTS := $(TEST_SRC:tests/%.c=$(B)/tests/%)


# ---- plugins: the same .cu files for a card (nvcc) and for the processor (g++); gemm is cuBLASLt on one, kernels/simt/ on the other -------------
CXX := g++
NVCC ?= $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
CUDA_ARCHS ?= 80
CU_SRC := $(wildcard kernels/cuda/*.cu)
CUDA_ONLY := kernels/cuda/gemm.cu kernels/cuda/attn_cudnn.cu
SIMT_OBJ := $(patsubst %.cu,$(B)/simt/%.o,$(filter-out $(CUDA_ONLY),$(CU_SRC))) $(patsubst %.cc,$(B)/simt/%.o,$(wildcard kernels/simt/*.cc))
space := $(subst ,, )
CUDA_DIR = $(B)/cuda-$(subst $(space),-,$(CUDA_ARCHS))
CUDA_OBJ = $(patsubst %.cu,$(CUDA_DIR)/%.o,$(CU_SRC))
# Warnings that C++ has against plain C: designated initialisers in another order, missing ones.
CXXFLAGS = -std=c++20 -D_GNU_SOURCE -DPW_VERSION='"$(VERSION)"' -I. -g $(OPT) -fopenmp -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -ffp-contract=off \
           -fno-math-errno -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-unknown-pragmas $(SANFLAGS)
GENCODE = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
NVCCFLAGS = -std=c++20 -O3 -DPW_VERSION='"$(VERSION)"' -D_GNU_SOURCE -I. -lineinfo --fmad=true --compress-mode=size -Werror all-warnings -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-missing-field-initializers \
            -Xptxas -v $(GENCODE)

# `make V=1` shows the commands.
Q := $(if $(V),,@)

all: pw plugins

.PHONY: plugins
plugins: $(B)/libpw_simt.so $(if $(and $(MPI),$(if $(SAN),,1)),$(B)/libpw_mpi.so) $(if $(and $(NVCC),$(if $(SAN)$(DEBUG),,1)),$(CUDA_DIR)/libpw_cuda.so)
	$(if $(filter %/libpw_cuda.so,$^),@ln -sfn $(notdir $(CUDA_DIR))/libpw_cuda.so $(B)/libpw_cuda.so,@:)

$(B)/simt/%.o: %.cu | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ -x c++ $<
$(B)/simt/%.o: %.cc | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<
# No C++ library: the emulation uses the language alone.
$(B)/libpw_simt.so: $(SIMT_OBJ)
	$(Q)$(CC) $(LDFLAGS) -shared -o $@ $^ -lm -lpthread

# What several ranks talk through. MPI's own headers do not keep to our warnings.
$(B)/mpi/comm.o: train/comm.c | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -fPIC -fvisibility=hidden $(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(MPI))) -MMD -MP -c -o $@ $<
$(B)/libpw_mpi.so: $(B)/mpi/comm.o
	$(Q)$(CC) $(LDFLAGS) -shared -o $@ $^ $(shell pkg-config --libs $(MPI))

$(CUDA_DIR)/%.o: %.cu | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $< 2> $(@:.o=.log) || { cat $(@:.o=.log) >&2; exit 1; }
CUDA_LIB = $(patsubst %/bin/nvcc,%/lib64,$(NVCC))
$(CUDA_DIR)/libpw_cuda.so: $(CUDA_OBJ)
	$(Q)$(CXX) -shared -o $@ $^ -L$(CUDA_LIB) -Wl,-rpath,'$$ORIGIN:$$ORIGIN/lib:/usr/local/cuda/lib64' -lcudart_static $(if $(filter %/gemm.o,$^),-lcublasLt) -ldl -lrt -lpthread -lm

pw: $(B)/pw
	@ln -sfn $(B)/pw pw

$(B)/pw: $(TOOL_OBJ) $(B)/libpw.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $(TOOL_OBJ) $(B)/libpw.a $(LIBS)

$(B)/libpw.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $(LIB_OBJ)

# Files for one instruction set are named for it and are called only after the processor was asked.
%_avx2.o: ISA := -mavx2 -mfma -mf16c
%_avx512_bf16.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx2 -mfma -mf16c
%_amx.o: ISA := -mamx-tile -mamx-bf16 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx2 -mfma -mf16c
%_avx512.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c
$(B)/kernels/cpu/%.o: OPT_FILE := -O3
ifneq ($(SAN)$(DEBUG),)
$(B)/kernels/cpu/%.o: OPT_FILE :=
endif

$(B)/%.o: %.c | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(OPT_FILE) $(ISA) $(if $(filter tests/%,$<),$(CHECK_CFLAGS)) -MMD -MP -c -o $@ $<

# The demo's helper program: its texts and its result file.
DEMO_SRC := $(wildcard tools/demo/*.c)
$(B)/demo: $(DEMO_SRC:%.c=$(B)/%.o) $(B)/libpw.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/embedded.c: tools/embed $(EMBED) | $(B)/.flags
	@tools/embed $(EMBED) > $@

$(B)/embedded.o: $(B)/embedded.c
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

$(B)/.flags:
	@mkdir -p $(B)
	@echo '$(CC) $(CFLAGS) $(LDFLAGS) $(LIBS)' > $@

# What stands in the place of NCCL where the device is the emulated one.
$(B)/libnccl_fake.so: tests/fake/nccl.c | $(B)/.flags
	$(Q)$(CC) $(CFLAGS) -fPIC -fvisibility=hidden $(LDFLAGS) -shared -o $@ $<

$(B)/tests/%: $(B)/tests/%.o $(TEST_HELP:%.c=$(B)/%.o) $(B)/libpw.a | $(B)/libpw_simt.so $(B)/libnccl_fake.so
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(LIBS)

# The emulation itself, with kernels of its own.
$(B)/tests/test_simt: $(B)/simt/tests/simt_kernels.o $(patsubst %.cc,$(B)/simt/%.o,$(wildcard kernels/simt/*.cc))

# cuDNN's graphs are made without a card too, when its headers are there: the module as host code.
$(B)/cudnn/attn_cudnn.o: kernels/cuda/attn_cudnn.cu | $(B)/.flags
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXXFLAGS) $(if $(NVCC),-isystem $(patsubst %/bin/nvcc,%/include,$(NVCC))) -MMD -MP -c -o $@ -x c++ $<
$(B)/tests/test_cudnn: $(B)/cudnn/attn_cudnn.o

-include $(shell test -d $(B) && find $(B) -name '*.d')

.PHONY: all check clean help layers walls config
.PHONY: tests
.SECONDARY:
tests: $(TESTS)

include tools/targets.mk
