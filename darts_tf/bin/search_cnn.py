"""Searches a convolutional cell on image data: alphas.npz, genotype.json, pictures, metrics.

    python -m darts_tf.bin.search_cnn --flagfile=flags/search_cnn_cifar10_second_order.flags \
        --data_dir=... --workdir=...
"""

import dataclasses
import math
import pathlib
import sys

from absl import flags

from darts_tf.bin import common, devices, images, search_files, work_folder
from darts_tf.errors import InputError, unknown_name
from darts_tf.search.orders import ORDERS


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The flags of a search; by default as published for CIFAR-10 (paper, section 3.1)."""

    order: str = "second_fd"
    epochs: int = 50
    batch_size: int = 64
    init_channels: int = 16
    layers: int = 8
    nodes: int = 4
    learning_rate: float = 0.025
    learning_rate_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    arch_learning_rate: float = 3e-4
    arch_weight_decay: float = 1e-3
    train_portion: float = 0.5
    class_weight: str = "none"
    seed: int = 2

    def __post_init__(self):
        """Checks the ranges."""
        if self.order not in ORDERS:
            raise unknown_name("--order", self.order, ORDERS)
        images.check_class_weight(self.class_weight)
        at_least_1, not_negative = (1, math.inf), (0, math.inf)
        common.check_ranges(
            self,
            dict.fromkeys(("epochs", "batch_size", "init_channels", "layers", "nodes"), at_least_1)
            | dict.fromkeys(
                ("learning_rate", "learning_rate_min", "arch_learning_rate"), not_negative
            )
            | dict.fromkeys(("weight_decay", "arch_weight_decay", "seed"), not_negative)
            | {"grad_clip": (1e-12, math.inf), "momentum": (0, 0.999999)},
        )
        if not 0 < self.train_portion < 1:
            raise InputError(
                "--train_portion must lie between 0 and 1, both excluded. "
                f"Received: --train_portion={self.train_portion}."
            )


HELP = {
    "order": "Architecture gradient: first, second_fd (as published) or second_exact.",
    "epochs": "Number of epochs.",
    "batch_size": "Images in a batch, for the weights and for the alphas.",
    "init_channels": "Channels of the first cells.",
    "layers": "Number of cells.",
    "nodes": "Intermediate nodes in a cell.",
    "learning_rate": "Learning rate of the weights in the first epoch.",
    "learning_rate_min": "End of its cosine.",
    "momentum": "Momentum of the weights' optimizer.",
    "weight_decay": "L2 weight decay of the weights.",
    "grad_clip": "Largest global norm of the weights' gradient.",
    "arch_learning_rate": "Learning rate of the alphas.",
    "arch_weight_decay": "L2 weight decay of the alphas.",
    "train_portion": "Share of the training images for the weights; the rest is for the alphas. "
    "Data with a validation part of its own uses that.",
    "class_weight": "Weights of the losses by class: none, or balanced, so that all classes "
    "count alike however many images they have.",
    "seed": "Seed of initial values, shuffling and augmentation.",
}


def pairing_of(settings: SearchSettings, image_data):
    """The batches of a search.

    Raises:
        InputError: The data does not fit the settings: a batch larger than a half, or images too
            small for the reductions.
    """
    from darts_tf import data

    images.check_size(image_data, settings.layers)
    halves = image_data.search_halves(settings.train_portion)
    weights = images.weights_of_classes(
        settings.class_weight, image_data.num_classes, *(labels for _, labels in halves)
    )
    if weights:
        halves = [(*half, own) for half, own in zip(halves, weights, strict=True)]
    return data.pair(
        *halves,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=data.default_augmentation(image_data.name, image_data.image_shape),
    )


def check_batches(
    settings: SearchSettings, pairing, computation: devices.Computation, flag: str = "--batch_size"
) -> None:
    """Refuses batches that are too small for the devices."""
    computation.check_batch(flag, settings.batch_size, len(pairing.train.images))


def search(
    settings: SearchSettings,
    image_data,
    pairing,
    folder: pathlib.Path,
    computation: devices.Computation,
    saving,
):
    """Searches in a work folder, from its newest checkpoint on; returns the genotype.

    Args:
        settings: How.
        image_data: A `darts_tf.data.ImageData`.
        pairing: Its batches, as `pairing_of` makes them.
        folder: The work folder, which exists.
        computation: How the supernet is computed.
        saving: When checkpoints are taken, a `Saving`.
    """
    import keras

    import darts_tf
    from darts_tf import data
    from darts_tf.training import loop

    keras.utils.set_random_seed(settings.seed)
    with computation.scope():
        supernet = darts_tf.Supernet(
            num_classes=image_data.num_classes,
            init_channels=settings.init_channels,
            num_cells=settings.layers,
            num_nodes=settings.nodes,
            image_shape=image_data.image_shape,
            recompute=computation.recompute,
            preprocessing=image_data.normalization,
        )
        model = darts_tf.ArchitectureSearch(supernet, order=settings.order)
        optimizer = darts_tf.SGD(
            settings.learning_rate, settings.momentum, settings.weight_decay, settings.grad_clip
        )
        model.compile(
            optimizer=optimizer,
            arch_optimizer=darts_tf.Adam(
                settings.arch_learning_rate, l2=settings.arch_weight_decay
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=computation.jit_compile,
            sync_batch_norm=computation.sync_batch_norm,
        )
    run = loop.Run(
        title="search",
        folder=folder,
        epochs=settings.epochs,
        batches=loop.Batches.of_stream(pairing.steps_per_epoch, pairing.stream),
        validation_data=data.evaluation_batches(
            pairing.valid.images, pairing.valid.labels, settings.batch_size
        ),
        schedule=darts_tf.cosine_schedule(
            settings.learning_rate, settings.learning_rate_min, settings.epochs
        ),
        callbacks=lambda first_epoch: search_files.callbacks(
            folder, first_epoch, provenance(settings, image_data)
        ),
        settings=provenance(settings, image_data),
        saving=saving,
    )
    loop.train(model, run, [model.optimizer, model.arch_optimizer])
    return search_files.draw(folder)


def provenance(settings: SearchSettings, image_data) -> dict:
    """How the genotype was found."""
    return {"program": "search_cnn", "dataset": image_data.name, **dataclasses.asdict(settings)}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    work_folder.define_flag(values)
    images.define_flags(values)
    common.define_settings(SearchSettings, HELP, values)
    work_folder.define_saving_flags(values)
    devices.define_device_flags(values)
    devices.define_computation_flags(values)
    devices.define_recompute_flag(values)
    devices.define_strategy_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    settings = common.settings_of(SearchSettings, values)
    work_folder.check(values)
    from darts_tf.data import fingerprint

    devices.configure_devices(values)
    computation = devices.computation_of(values)
    image_data = images.load(values)
    pairing = pairing_of(settings, image_data)
    check_batches(settings, pairing, computation)
    devices.configure_devices(values, settings.epochs * pairing.steps_per_epoch)
    of_data = fingerprint.of_images(image_data, ("train", "validation"))
    saving = work_folder.saving_of(values)
    with work_folder.prepared(values, computation, of_data) as folder:
        found = search(settings, image_data, pairing, folder, computation, saving)
    print(search_files.report(folder, found))
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
