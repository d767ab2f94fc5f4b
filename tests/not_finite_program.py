"""What is said of numbers that are not finite, by one replica, by two and by two workers.

    python -m tests.not_finite_program FOLDER

A program of its own, because logical devices must be made before TensorFlow computes anything. It
writes what it says of each case to FOLDER/1.json and FOLDER/2.json, by number of replicas; where
TF_CONFIG names several workers, each writes to FOLDER/worker_<its number>.json.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from darts_tf.training.distribution import strategy_of
from tests.training_guards_test import BAD_LABEL, At, Models, put, rate, spoil, stopped, zero

CASES = {
    "training example": ("second_exact", put(0, 0, 4, 2, np.nan)),
    "validation example": ("second_exact", put(1, 0, 5, 3, np.inf)),
    "training loss": ("second_exact", put(0, 1, 2, 3, BAD_LABEL)),
    "validation loss": ("second_exact", put(1, 1, 2, 2, BAD_LABEL)),
    "alphas": (
        "second_exact",
        At(2, lambda model: spoil(model.supernet.architecture_parameters[0], np.nan)),
    ),
    "gradient of the weights": ("first", At(5, lambda model: zero(model.supernet.root))),
    "gradient of the alphas": ("first", At(3, lambda model: zero(model.supernet.alphas[1]))),
    "step of the alphas": ("first", At(1, lambda model: rate(model.arch_optimizer))),
    "example": ("training", put(0, 0, 7, 3, -np.inf)),
    "loss of an example": ("training", put(0, 1, 2, 2, BAD_LABEL)),
    "step of the weights": ("training", At(1, lambda model: rate(model.optimizer))),
    "weights": ("text_training", At(4, lambda model: spoil(model.trainable_variables[0], np.inf))),
}
"""By name: the model, and the damage to its batches or what is done to it before a step.

Of batches of 4, examples 2 and 3 are the second replica's.
"""

OF_WORKERS = ("first", "training")
"""The models of the workers' cases: those that are traced soonest."""


def say(strategy, path: pathlib.Path, cases=CASES) -> None:
    """Writes what is said of each case, and after how many steps."""
    keras.backend.clear_session()  # names of variables begin anew
    models, said = Models(), {}
    with strategy.scope():
        for name in dict.fromkeys(name for name, _ in CASES.values()):
            models(name)
    for case, (name, damage) in cases.items():
        at = At(damage.step, damage.action) if isinstance(damage, At) else None
        said[case] = stopped(models(name), name, None if at else damage, at)
    path.write_text(json.dumps(said, indent=1), encoding="utf-8")


def main(folder):
    """On one replica and on two, or as one of several workers."""
    folder = pathlib.Path(folder)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    if "TF_CONFIG" in os.environ:
        strategy = strategy_of("multi_worker")
        cases = {case: made for case, made in CASES.items() if made[0] in OF_WORKERS}
        say(strategy, folder / f"worker_{strategy.cluster_resolver.task_id}.json", cases)
        return
    mirrored = strategy_of("mirrored", logical_devices=2)
    say(strategy_of("one_device"), folder / "1.json")
    say(mirrored, folder / "2.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
