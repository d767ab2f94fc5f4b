"""Whether memory grows: many steps of a tiny search, with all that a run does around them.

    python -m darts_tf.bin.soak

A search on made-up images through the programs' own loop: an epoch every 20 steps, each with an
evaluation, a checkpoint, a line of metrics.jsonl, alphas.npz and genotype.json. Prints the resident
memory every 200 steps. Exit code 0 if it stays within --limit_mb of the level after the first 200,
else 1.
"""

import contextlib
import os
import pathlib
import sys
import tempfile

from absl import flags

from darts_tf.bin import common, devices
from darts_tf.errors import InputError

GREW = 1
STEPS_PER_EPOCH, BATCH_SIZE, IMAGE_SHAPE, CLASSES = 20, 4, (8, 8, 1), 3


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    common.define_counts(
        values,
        (
            ("steps", 2000, "Number of steps, a multiple of 20."),
            ("every", 200, "Steps between two looks at the memory, and before the first."),
        ),
    )
    flags.DEFINE_float(
        "limit_mb",
        50.0,
        "Largest growth, in MB of 2^20 bytes.",
        lower_bound=0.0,
        flag_values=values,
    )
    devices.define_device_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    if values.steps % STEPS_PER_EPOCH or values.steps < 2 * values.every:
        raise InputError(
            f"--steps must be a multiple of {STEPS_PER_EPOCH}, and at least twice --every. "
            f"Received: --steps={values.steps} --every={values.every}."
        )
    devices.configure_devices(values, values.steps)
    with tempfile.TemporaryDirectory() as folder:
        levels = measure(values.steps, values.every, pathlib.Path(folder))
    growth = max(levels[1:]) - levels[0]
    print(f"growth      {growth:.1f} MB since step {values.every}, limit {values.limit_mb:g} MB")
    return GREW if growth > values.limit_mb else common.DONE


def measure(steps: int, every: int, folder: pathlib.Path) -> list[float]:
    """Runs the steps; returns the resident memory in MB after every `every` of them.

    Args:
        steps: A multiple of `STEPS_PER_EPOCH`.
        every: Steps between two measurements.
        folder: A work folder, which exists.
    """
    import keras
    import numpy as np
    import psutil

    import darts_tf
    from darts_tf import data
    from darts_tf.training import loop

    process, levels, shown = psutil.Process(), [], sys.stdout

    class Memory(keras.callbacks.Callback):
        """Prints and keeps the resident memory."""

        done = 0

        def on_train_batch_end(self, batch, logs=None):
            """Measures, when it is time to."""
            self.done += 1
            if self.done % every == 0:
                levels.append(process.memory_info().rss / 2**20)
                print(f"step {self.done:<6} {levels[-1]:.1f} MB", file=shown, flush=True)

    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    count = STEPS_PER_EPOCH * BATCH_SIZE
    images = generator.integers(0, 256, (2, count, *IMAGE_SHAPE), np.uint8)
    labels = generator.integers(0, CLASSES, (2, count))
    pairing = data.pair(
        (images[0], labels[0]),
        (images[1], labels[1]),
        batch_size=BATCH_SIZE,
    )
    supernet = darts_tf.Supernet(
        CLASSES,
        2,
        num_cells=1,
        num_nodes=2,
        image_shape=IMAGE_SHAPE,
        preprocessing=darts_tf.normalization(images[0]),
    )
    model = darts_tf.ArchitectureSearch(supernet, order="second_exact")
    model.compile(
        darts_tf.SGD(),
        darts_tf.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    )
    run = loop.Run(
        title="soak",
        folder=folder,
        epochs=steps // STEPS_PER_EPOCH,
        batches=loop.Batches.of_stream(pairing.steps_per_epoch, pairing.stream),
        validation_data=data.evaluation_batches(images[1], labels[1], BATCH_SIZE),
        schedule=lambda epoch, _=None: 0.025,
        callbacks=lambda first_epoch: [
            darts_tf.AlphaHistory(folder / "alphas.npz", first_epoch),
            darts_tf.GenotypeFile(folder / "genotype.json"),
            Memory(),
        ],
    )
    # Without the line of each epoch.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        loop.train(model, run, [model.optimizer, model.arch_optimizer])
    return levels


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
