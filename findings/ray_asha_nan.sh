#!/usr/bin/env bash
# ASHA of Ray Tune 2.60.0 stops no trial whose metric is NaN: it runs to the end where finite ones stop early.
#
# A diverged trial reports NaN at every rung. NaN is left out of the rung's cutoff
# (ray-project/ray#6916), but the trial is compared with that cutoff all the same, and no comparison
# with NaN is true. So the trials that a sweep most wants to stop cost the most.
# ray-project/ray#11670 asked that schedulers handle NaN; it is closed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check "ray[tune]==2.60.0" <<'PROGRAM' 3<<'EXPECTED' || exit
import math
import os
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

LOSSES = [1.0, 2.0, math.nan, 3.0, 4.0]


def train(config):
    for _ in range(16):
        tune.report({"loss": LOSSES[config["trial"]]})


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
asha = ASHAScheduler(metric="loss", mode="min", max_t=16, grace_period=1, reduction_factor=2)
results = tune.Tuner(
    train,
    param_space={"trial": tune.grid_search(list(range(len(LOSSES))))},
    tune_config=tune.TuneConfig(scheduler=asha, max_concurrent_trials=1),
    run_config=tune.RunConfig(storage_path=str(Path.cwd()), verbose=0),
).fit()
ray.shutdown()
for result in results:
    print("loss", LOSSES[result.config["trial"]], "steps", result.metrics["training_iteration"])
PROGRAM
loss 1.0 steps 16
loss 2.0 steps 1
loss nan steps 16
loss 3.0 steps 1
loss 4.0 steps 1
EXPECTED
