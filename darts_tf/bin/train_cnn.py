"""Trains a derived convolutional network from scratch and tests it once, at the end.

    python -m darts_tf.bin.train_cnn --flagfile=flags/train_cnn_cifar10.flags --genotype=DARTS_V2 \
        --data_dir=... --workdir=...
"""

import dataclasses
import math
import pathlib
import sys

from absl import flags

from darts_tf import files
from darts_tf import genotype as genotypes
from darts_tf.bin import common, devices, images, work_folder
from darts_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The flags of a training; by default as published for CIFAR-10 (paper, section 3.2)."""

    epochs: int = 600
    batch_size: int = 96
    init_channels: int = 36
    layers: int = 20
    learning_rate: float = 0.025
    learning_rate_decay: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    auxiliary: bool = True
    auxiliary_weight: float = 0.4
    drop_path_prob: float = 0.2
    cutout: bool = True
    cutout_length: int | None = None
    label_smoothing: float = 0.0
    class_weight: str = "none"
    test_every_epoch: bool = False
    seed: int = 0

    def __post_init__(self):
        """Checks the ranges."""
        images.check_class_weight(self.class_weight)
        at_least_1, not_negative, share = (1, math.inf), (0, math.inf), (0, 0.999999)
        common.check_ranges(
            self,
            dict.fromkeys(("epochs", "batch_size", "init_channels", "layers"), at_least_1)
            | dict.fromkeys(("learning_rate", "weight_decay", "auxiliary_weight"), not_negative)
            | dict.fromkeys(("momentum", "drop_path_prob", "label_smoothing"), share)
            | {"learning_rate_decay": (0, 1), "grad_clip": (1e-12, math.inf)}
            | ({} if self.cutout_length is None else {"cutout_length": at_least_1})
            | {"seed": not_negative},
        )


HELP = {
    "epochs": "Number of epochs.",
    "batch_size": "Images in a batch.",
    "init_channels": "Channels of the first cells.",
    "layers": "Number of cells.",
    "learning_rate": "Learning rate in the first epoch.",
    "learning_rate_decay": "Factor of the learning rate after each epoch; 0 for a cosine to 0.",
    "momentum": "Momentum of the optimizer.",
    "weight_decay": "L2 weight decay.",
    "grad_clip": "Largest global norm of the gradient.",
    "auxiliary": "Whether to train with an auxiliary head.",
    "auxiliary_weight": "Weight of the auxiliary loss.",
    "drop_path_prob": "Drop path probability after the last epoch; it grows from 0.",
    "cutout": "Whether to cut a square out of each training image.",
    "cutout_length": "Side of that square in px; by default half the image's, as published (16).",
    "label_smoothing": "Share of a label spread over all classes, in the training loss.",
    "class_weight": "Weights of the losses by class: none, or balanced, so that all classes "
    "count alike however many images they have.",
    "test_every_epoch": "Whether to report the test part after every epoch too, as the authors do. "
    "Nothing is ever selected by it.",
    "seed": "Seed of initial values, shuffling, augmentation and drop path.",
}


@dataclasses.dataclass(frozen=True)
class Streams:
    """Training and test data, and what the network and its export must know of them."""

    train: object
    test: object
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    preprocessing: object


def streams_of_images(settings: TrainSettings, image_data, prefix: str = "") -> Streams:
    """All training images, those of a validation part included; the test part in order.

    Args:
        settings: How.
        image_data: A `darts_tf.data.ImageData`.
        prefix: What the flags begin with, for the errors.

    Raises:
        InputError: The data does not fit the settings.
    """
    import numpy as np

    from darts_tf import data

    images.check_size(image_data, settings.layers)
    arrays = [image_data.train_images], [image_data.train_labels]
    if image_data.validation_images is not None:
        arrays[0].append(image_data.validation_images)
        arrays[1].append(image_data.validation_labels)
    augmentation = augmentation_of(settings, image_data, prefix)
    train_images, labels = map(np.concatenate, arrays)
    weights = images.weights_of_classes(settings.class_weight, image_data.num_classes, labels)
    train = data.ArrayStream(
        train_images,
        labels,
        settings.batch_size,
        settings.seed,
        augmentation,
        name="training part",
        weights=weights and weights[0],
    )
    test = data.evaluation_batches(
        image_data.test_images,
        image_data.test_labels,
        settings.batch_size,
        name="test part",
    )
    return Streams(
        train, test, image_data.image_shape, image_data.class_names, image_data.normalization
    )


def augmentation_of(settings: TrainSettings, image_data, prefix: str = ""):
    """The augmentation of the training images, with cutout; the arguments as above.

    Raises:
        InputError: The square covers whole images.
    """
    from darts_tf import data

    augmentation = data.default_augmentation(image_data.name, image_data.image_shape)
    if not settings.cutout:
        return augmentation
    height, width, _ = image_data.image_shape
    side = min(height, width)
    length = settings.cutout_length or side // 2
    if length >= side:
        raise InputError(
            f"--{prefix}cutout_length={length} covers the whole of images of {height}x{width} px, "
            f"which would be trained on as blank ones. Take less than {side}, leave the flag out "
            f"for {side // 2}, or add --no{prefix}cutout."
        )
    # What the normalisation makes zero, as published.
    mean = tuple(image_data.normalization.input_mean)
    return dataclasses.replace(augmentation, cutout=length, fill=mean)


def streams_of_imagenet(settings: TrainSettings, name: str, data_dir: str | None) -> Streams:
    """ImageNet or a part of it, read from disk; its validation part is what the field tests on."""
    from darts_tf import data

    if settings.cutout:
        raise InputError("ImageNet is trained without cutout, as published: add --nocutout.")
    if settings.class_weight != "none":
        raise InputError(
            "--class_weight=balanced counts the labels in memory, but ImageNet is read from disk: "
            "leave it out. Its classes have about the same number of images."
        )
    streams = data.imagenet_streams(data_dir, settings.batch_size, seed=settings.seed, name=name)
    preprocessing = data.published_normalization("imagenet2012")
    return Streams(
        streams.train, streams.validation, (224, 224, 3), streams.class_names, preprocessing
    )


def check_batches(
    settings: TrainSettings,
    streams: Streams,
    computation: devices.Computation,
    flag: str = "--batch_size",
) -> None:
    """Refuses batches that are too small for the devices."""
    train = streams.train
    count = train.num_examples if hasattr(train, "num_examples") else len(train.images)
    computation.check_batch(flag, settings.batch_size, count)


def train(
    settings: TrainSettings,
    genotype,
    dataset: str,
    streams: Streams,
    folder: pathlib.Path,
    computation: devices.Computation,
    saving,
) -> dict:
    """Trains in a work folder, from its newest checkpoint on; returns the final figures.

    Args:
        settings: How.
        genotype: The cells.
        dataset: Name of the data set; ImageNet and its parts select ImageNet's stem.
        streams: The data.
        folder: The work folder, which exists.
        computation: How the network is computed.
        saving: When checkpoints are taken, a `Saving`.
    """
    import keras

    import darts_tf
    from darts_tf.data.sources import is_imagenet
    from darts_tf.losses import label_smoothed_cross_entropy
    from darts_tf.report import plots
    from darts_tf.training import loop

    keras.utils.set_random_seed(settings.seed)
    check_genotype(genotype, folder / "genotype.json")
    genotypes.save(genotype, folder / "genotype.json", {"program": "train_cnn"})
    (folder / "plots").mkdir(exist_ok=True)
    plots.plot_genotype(genotype, folder / "plots" / "cells.svg")
    with computation.scope():
        network = darts_tf.EvaluationNetwork(
            genotype,
            num_classes=len(streams.class_names),
            init_channels=settings.init_channels,
            num_cells=settings.layers,
            auxiliary=settings.auxiliary,
            image_shape=streams.image_shape,
            stem="imagenet" if is_imagenet(dataset) else "cifar",
            seed=settings.seed,
            preprocessing=streams.preprocessing,
        )
        model = darts_tf.ArchitectureEvaluation(network, settings.auxiliary_weight)
        plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        smoothed = label_smoothed_cross_entropy(settings.label_smoothing)
        model.compile(
            optimizer=darts_tf.SGD(
                settings.learning_rate, settings.momentum, settings.weight_decay, settings.grad_clip
            ),
            loss=smoothed if settings.label_smoothing else plain,
            evaluation_loss=plain,
            metrics=["accuracy"],
            jit_compile=computation.jit_compile,
            sync_batch_norm=computation.sync_batch_norm,
        )
    schedule = (
        darts_tf.exponential_schedule(settings.learning_rate, settings.learning_rate_decay)
        if settings.learning_rate_decay
        else darts_tf.cosine_schedule(settings.learning_rate, 0.0, settings.epochs)
    )
    run = loop.Run(
        title="train",
        folder=folder,
        epochs=settings.epochs,
        batches=loop.Batches.of_stream(streams.train.steps_per_epoch, streams.train.batches),
        validation_data=streams.test if settings.test_every_epoch else None,
        schedule=schedule,
        callbacks=lambda first: [
            darts_tf.DropPathSchedule(settings.drop_path_prob, settings.epochs)
        ],
        settings={
            "genotype": genotype.to_text(),
            "dataset": dataset,
            **dataclasses.asdict(settings),
        },
        saving=saving,
    )
    loop.train(model, run, [model.optimizer])
    tested = model.evaluate(streams.test, verbose=0, return_dict=True)
    metrics = {
        "test_accuracy": round(float(tested["accuracy"]), 6),
        "test_loss": round(float(tested["loss"]), 6),
        "weights": network.count_weights(),
        "epochs": settings.epochs,
        "dataset": dataset,
        "genotype": genotype.to_text(),
    }
    with files.replacing(folder / "model.keras", files.size_of(network.variables)) as partial:
        network.save(partial)
    images.save_description(folder, streams)
    common.write_json(folder / "metrics.json", metrics)
    return metrics


def check_genotype(genotype, path: pathlib.Path) -> None:
    """Refuses to resume with other cells: a genotype file may have changed since the run began."""
    if path.exists() and genotypes.load(path) != genotype:
        raise InputError(
            f"The work folder {path.parent} holds a run with another genotype, {path}: the file "
            "named by --genotype has changed since. Give that genotype to resume, or name another "
            "folder with --workdir."
        )


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    work_folder.define_flag(values)
    images.define_flags(values)
    flags.DEFINE_string(
        "genotype",
        "DARTS_V2",
        f"A published genotype ({', '.join(genotypes.zoo.names('cnn'))}), a file or its text.",
        flag_values=values,
    )
    common.define_settings(TrainSettings, HELP, values)
    work_folder.define_saving_flags(values)
    devices.define_device_flags(values)
    devices.define_computation_flags(values)
    devices.define_strategy_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    settings = common.settings_of(TrainSettings, values)
    genotype = genotypes.load_genotype(values.genotype, "cnn")
    work_folder.check(values)
    from darts_tf.data import fingerprint

    devices.configure_devices(values)
    computation = devices.computation_of(values)
    from darts_tf.data.sources import is_imagenet  # loads TensorFlow: after the flags are checked

    if is_imagenet(values.dataset):
        if values.limit is not None:
            raise InputError("--limit does not apply to ImageNet, which is read from disk.")
        if values.split != values["split"].default:
            raise InputError("--split does not apply to ImageNet, of which nothing is left out.")
        streams = streams_of_imagenet(settings, values.dataset, values.data_dir)
        of_data = fingerprint.of_prepared(values.dataset, values.data_dir)
    else:
        image_data = images.load(values)
        streams = streams_of_images(settings, image_data)
        of_data = fingerprint.of_images(image_data, ("train", "validation", "test"))
    check_batches(settings, streams, computation)
    devices.configure_devices(values, settings.epochs * streams.train.steps_per_epoch)
    saving = work_folder.saving_of(values)
    with work_folder.prepared(values, computation, of_data) as folder:
        metrics = train(settings, genotype, values.dataset, streams, folder, computation, saving)
    print(f"test accuracy {100 * metrics['test_accuracy']:.2f} %, {metrics['weights']:,} weights")
    print(f"metrics     {folder / 'metrics.json'}\nmodel       {folder / 'model.keras'}")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
