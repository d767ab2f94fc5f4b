"""Searches a recurrent cell on text: alphas.npz, genotype.json, pictures, metrics.

    python -m darts_tf.bin.search_rnn --flagfile=flags/search_rnn_ptb_second_order.flags \
        --data_dir=... --workdir=...
"""

import dataclasses
import math
import pathlib
import sys

from absl import flags

from darts_tf.bin import common, devices, search_files, text, work_folder
from darts_tf.errors import InputError, unknown_name
from darts_tf.search.orders import ORDERS


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The flags of a search; by default as published for Penn Treebank (appendix A.1.2)."""

    order: str = "second_fd"
    published_quirks: bool = False
    epochs: int = 50
    batch_size: int = 256
    evaluation_batch_size: int = 10
    nhid: int = 300
    nodes: int = 8
    bptt: int = 35
    learning_rate: float = 20.0
    weight_decay: float = 5e-7
    grad_clip: float = 0.25
    dropout: float = 0.75
    dropouth: float = 0.25
    dropoutx: float = 0.75
    dropouti: float = 0.2
    dropoute: float = 0.0
    alpha: float = 0.0
    beta: float = 1e-3
    arch_learning_rate: float = 3e-3
    arch_weight_decay: float = 1e-3
    seed: int = 3

    def __post_init__(self):
        """Checks the ranges."""
        if self.order not in ORDERS:
            raise unknown_name("--order", self.order, ORDERS)
        if self.published_quirks and self.order != "second_fd":
            raise InputError(
                "--published_quirks are those of the published second order: they need "
                f"--order=second_fd. Received: --order={self.order}."
            )
        check_language_ranges(self)
        common.check_ranges(
            self,
            {"nodes": (1, math.inf)}
            | dict.fromkeys(("arch_learning_rate", "arch_weight_decay"), (0, math.inf)),
        )


def check_language_ranges(settings) -> None:
    """Checks what search and training have in common.

    Raises:
        InputError: A value is out of its range.
    """
    sizes = ("epochs", "batch_size", "evaluation_batch_size", "nhid")
    dropouts = ("dropout", "dropouth", "dropoutx", "dropouti", "dropoute")
    common.check_ranges(
        settings,
        dict.fromkeys(sizes, (1, math.inf))
        | {"bptt": (2, math.inf), "grad_clip": (1e-12, math.inf)}
        | dict.fromkeys(dropouts, (0, 0.999999))
        | dict.fromkeys(("learning_rate", "weight_decay", "alpha", "beta"), (0, math.inf))
        | {"seed": (0, 2**31 - 1)},
    )


LANGUAGE_HELP = {
    "epochs": "Number of epochs.",
    "batch_size": "Rows of text side by side.",
    "evaluation_batch_size": "Rows of text side by side in the validation after each epoch.",
    "nhid": "Width of embedding and hidden state (published: emsize, nhid and nhidlast).",
    "bptt": "Base length of a window in words.",
    "learning_rate": "Learning rate of a window of the base length.",
    "weight_decay": "L2 weight decay of the weights.",
    "grad_clip": "Largest global norm of the weights' gradient.",
    "dropout": "Share of the cell's outputs dropped.",
    "dropouth": "Share of the states inside the cell dropped.",
    "dropoutx": "Share of the cell's inputs dropped, inside it.",
    "dropouti": "Share of the embedded words' values dropped.",
    "dropoute": "Share of the vocabulary dropped from the embedding.",
    "alpha": "AR: penalty on the size of the outputs.",
    "beta": "TAR: penalty on the change of the hidden state.",
}

HELP = LANGUAGE_HELP | {
    "order": "Architecture gradient: first, second_fd (as published) or second_exact.",
    "published_quirks": "Whether --order=second_fd has the departures of the authors' code: "
    "embedding not moved by the virtual step, clip factor not bounded in the implicit term, "
    "validation gradient clipped, other dropout masks in each pass.",
    "nodes": "Nodes of the cell beside node 0.",
    "arch_learning_rate": "Learning rate of the alphas.",
    "arch_weight_decay": "L2 weight decay of the alphas.",
    "seed": "Seed of initial values, window lengths and dropout.",
}


def regularization_of(settings):
    """The dropouts and penalties of the settings."""
    from darts_tf.networks.language_model import Regularization

    names = [field.name for field in dataclasses.fields(Regularization)]
    return Regularization(**{name: getattr(settings, name) for name in names})


def windows_of(settings: SearchSettings, corpus):
    """The windows of a search.

    Raises:
        InputError: The text is too short for the batches.
    """
    from darts_tf import data

    train = data.TrainWindows(
        corpus.train, settings.batch_size, settings.bptt, settings.seed, "search"
    )
    data.windows.rows_of(corpus.valid, settings.evaluation_batch_size, "the validation text")
    return data.PairedWindows(train, corpus.valid)


def check_batches(settings, computation: devices.Computation, prefix: str = "--") -> None:
    """Refuses batches with fewer rows than there are devices.

    Args:
        settings: Of a search or a training of language models.
        computation: On which devices.
        prefix: What the flags begin with.
    """
    for name in ("batch_size", "evaluation_batch_size"):
        computation.check_batch(prefix + name, getattr(settings, name))


def search(
    settings: SearchSettings,
    corpus,
    folder: pathlib.Path,
    computation: devices.Computation,
    saving,
):
    """Searches in a work folder, from its newest checkpoint on; returns the genotype.

    Args:
        settings: How.
        corpus: A `darts_tf.data.Corpus`; its test part is not touched.
        folder: The work folder, which exists.
        computation: On which devices.
        saving: When checkpoints are taken, a `Saving`.
    """
    import keras

    import darts_tf
    from darts_tf import data
    from darts_tf.losses import token_cross_entropy
    from darts_tf.networks.language import RecurrentSupernet
    from darts_tf.search.published_second_order import PublishedSecondOrder
    from darts_tf.training import language_callbacks, loop

    keras.utils.set_random_seed(settings.seed)
    windows = windows_of(settings, corpus)
    with computation.scope():
        supernet = RecurrentSupernet(
            len(corpus.vocabulary),
            settings.nhid,
            settings.batch_size,
            settings.evaluation_batch_size,
            settings.nodes,
            regularization=regularization_of(settings),
            seed=settings.seed,
            redraw_masks=settings.published_quirks,
        )
        order = settings.order
        if settings.published_quirks:
            order = PublishedSecondOrder.keeping(supernet.network_parameters, supernet.embedding)
        model = darts_tf.ArchitectureSearch(supernet, order, clip_virtual_step=True)
        model.compile(
            optimizer=darts_tf.SGD(
                settings.learning_rate, 0.0, settings.weight_decay, settings.grad_clip
            ),
            arch_optimizer=darts_tf.Adam(
                settings.arch_learning_rate, 0.9, l2=settings.arch_weight_decay
            ),
            loss=token_cross_entropy,
            sync_batch_norm=computation.sync_batch_norm,
        )
    run = loop.Run(
        title="search",
        folder=folder,
        epochs=settings.epochs,
        batches=loop.Batches(windows.steps, windows.batches, endless=False),
        validation_data=data.evaluation_windows(
            corpus.valid, settings.evaluation_batch_size, settings.bptt
        ),
        schedule=lambda epoch, _=None: settings.learning_rate,
        callbacks=lambda first_epoch: [
            language_callbacks.CarriedState(),
            language_callbacks.StepLearningRate(
                lambda epoch: windows.train.rates(epoch, settings.learning_rate)
            ),
            language_callbacks.Perplexity(),
            *search_files.callbacks(folder, first_epoch, provenance(settings, corpus)),
        ],
        settings=provenance(settings, corpus),
        saving=saving,
    )
    loop.train(model, run, [model.optimizer, model.arch_optimizer])
    return search_files.draw(folder)


def provenance(settings: SearchSettings, corpus) -> dict:
    """How the genotype was found."""
    return {"program": "search_rnn", "dataset": corpus.name, **dataclasses.asdict(settings)}


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    work_folder.define_flag(values)
    text.define_flags(values)
    common.define_settings(SearchSettings, HELP, values)
    work_folder.define_saving_flags(values)
    devices.define_device_flags(values)
    devices.define_precision_flag(values)
    devices.define_strategy_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    settings = common.settings_of(SearchSettings, values)
    work_folder.check(values)
    from darts_tf.data import fingerprint

    corpus = text.load(values)
    devices.configure_devices(values, branching=False, one_thread=True)
    computation = devices.computation_of(values)
    check_batches(settings, computation)
    windows = windows_of(settings, corpus)
    steps = settings.epochs * len(windows.train.windows(0))
    devices.configure_devices(values, steps, branching=False, one_thread=True)
    of_data = fingerprint.of_corpus(corpus, ("train", "valid"))
    with work_folder.prepared(values, computation, of_data) as folder:
        found = search(settings, corpus, folder, computation, work_folder.saving_of(values))
    print(search_files.report(folder, found))
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
