/* What opening a run (run.c) and training it (run_train.c) share; private to these. */
#ifndef PW_TRAIN_RUN_PARTS_H
#define PW_TRAIN_RUN_PARTS_H

#include "train/run.h"

/* Resident memory that libraries take when they first work, measured: HDF5 on its first file, and the buffers of the matrix products. */
#define PW_RUN_LIBRARY_BYTES ((size_t)4 << 20)
/* Memory a step of the log takes while csv, report and TensorBoard's file are made of it: its text and line, or its line and events. */
#define PW_RUN_LOG_BYTES ((size_t)640)
/* Share of the dense product's rate that training reaches on a CPU, measured on small and 100M shapes; the rest is attention, norms, decoding. */
#define PW_RUN_GEMM_SHARE 0.4

bool pw_run_is_full(const struct pw_run *run);
const char *pw_run_quantise(const struct pw_run *run);   /* NULL: as stored */
int pw_run_model(struct pw_run *run, bool measure);
int pw_run_trainer(struct pw_run *run);
/* Which way products go on this device, before anything is planned: run_products.c. */
#define PW_RUN_PRODUCTS "products.json"
int pw_run_products(struct pw_run *run);
int pw_run_fill_budget(struct pw_run *run);              /* for the run as run->fit has it */
/* fit.c: a setting is tried (host_bytes is counted), what one costs as an order of speed, and the operations of a block's products for a token; again: of the parts that checkpointing computes twice. */
int pw_run_try_fit(struct pw_run *run, const struct pw_run_fit *f);
double pw_run_fit_cost(const struct pw_run *run);
double pw_run_block_ops(const struct pw_model_config *c, int layer, bool again);
int pw_run_outputs(struct pw_run *run, const char *folder, const char *name); /* adapter/ or model/ or best/, replaced */
size_t pw_run_init_bytes(const struct pw_run *run);  /* of host memory that pissa and loftq take for a while */
int pw_run_plan_adapter(struct pw_run *run);    /* as the recipe says, of run->config; with kind: full none */
int pw_run_fresh_adapter(struct pw_run *run);   /* values for the adapter that was placed and attached: adapter_init.c */
int pw_run_adapter_from(struct pw_run *run, const char *dir); /* those of an adapter folder, which must have the same modules and rank */
int pw_run_widened(struct pw_dev *dev, struct pw_model *m, const char *module, float *out); /* a linear of a model on a host device as f32, without its adapter */
#endif
