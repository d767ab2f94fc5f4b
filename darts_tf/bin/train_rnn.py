"""Trains a language model of a derived cell from scratch and tests it once, at the end.

    python -m darts_tf.bin.train_rnn --flagfile=flags/train_rnn_ptb.flags --genotype=DARTS_V2 \
        --data_dir=... --workdir=...
"""

import dataclasses
import math
import pathlib
import sys

from absl import flags

from darts_tf import files
from darts_tf import genotype as genotypes
from darts_tf.bin import common, devices, text, work_folder
from darts_tf.bin.search_rnn import (
    LANGUAGE_HELP,
    check_batches,
    check_language_ranges,
    regularization_of,
)
from darts_tf.bin.train_cnn import check_genotype


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The flags of a training; by default as published for Penn Treebank (appendix A.2.3)."""

    epochs: int = 8000
    batch_size: int = 64
    evaluation_batch_size: int = 10
    test_batch_size: int = 1
    nhid: int = 850
    bptt: int = 35
    learning_rate: float = 20.0
    weight_decay: float = 8e-7
    grad_clip: float = 0.25
    nonmono: int = 5
    dropout: float = 0.75
    dropouth: float = 0.25
    dropoutx: float = 0.75
    dropouti: float = 0.2
    dropoute: float = 0.1
    alpha: float = 0.0
    beta: float = 1e-3
    seed: int = 1267

    def __post_init__(self):
        """Checks the ranges."""
        check_language_ranges(self)
        common.check_ranges(self, {"test_batch_size": (1, math.inf), "nonmono": (0, math.inf)})


HELP = LANGUAGE_HELP | {
    "test_batch_size": "Rows of text side by side in the final test.",
    "nonmono": "Epochs without a better validation loss after which the iterates are averaged.",
    "seed": "Seed of initial values, window lengths and dropout.",
}


def windows_of(settings: TrainSettings, corpus):
    """The windows of a training.

    Raises:
        InputError: The text is too short for the batches.
    """
    from darts_tf import data

    for part, rows in (
        ("valid", settings.evaluation_batch_size),
        ("test", settings.test_batch_size),
    ):
        data.windows.rows_of(getattr(corpus, part), rows, f"the part {part}")
    return data.TrainWindows(corpus.train, settings.batch_size, settings.bptt, settings.seed)


def train(
    settings: TrainSettings,
    genotype,
    corpus,
    folder: pathlib.Path,
    computation: devices.Computation,
    saving,
) -> dict:
    """Trains in a work folder, from its newest checkpoint on; returns the final figures.

    Args:
        settings: How.
        genotype: The cell.
        corpus: A `darts_tf.data.Corpus`.
        folder: The work folder, which exists.
        computation: On which devices.
        saving: When checkpoints are taken, a `Saving`.
    """
    import keras

    from darts_tf.networks.language import RecurrentEvaluationNetwork
    from darts_tf.report import plots

    keras.utils.set_random_seed(settings.seed)
    check_genotype(genotype, folder / "genotype.json")
    genotypes.save(genotype, folder / "genotype.json", {"program": "train_rnn"})
    (folder / "plots").mkdir(exist_ok=True)
    plots.plot_genotype(genotype, folder / "plots" / "cells.svg")
    with computation.scope():
        network = RecurrentEvaluationNetwork(
            genotype,
            len(corpus.vocabulary),
            settings.nhid,
            settings.batch_size,
            settings.evaluation_batch_size,
            regularization_of(settings),
            settings.seed,
        )
    described = {"genotype": genotype.to_text()}
    return train_network(settings, network, corpus, folder, described, saving)


def train_network(
    settings: TrainSettings, network, corpus, folder: pathlib.Path, described: dict, saving
) -> dict:
    """Trains a language model in a work folder; returns the final figures.

    Args:
        settings: How.
        network: A `LanguageModel`, new.
        corpus: A `darts_tf.data.Corpus`.
        folder: The work folder, which exists.
        described: What else the final figures say of the network.
        saving: When checkpoints are taken, a `Saving`.
    """
    from darts_tf import data
    from darts_tf.training import language_callbacks, loop
    from darts_tf.training.averaged_sgd import AveragedSGD
    from darts_tf.training.language import LanguageModelTraining, stream_loss

    text.save_vocabulary(folder, corpus.vocabulary)
    windows = windows_of(settings, corpus)
    with network.distribute_strategy.scope():
        model = LanguageModelTraining(network)
        model.compile(
            AveragedSGD(settings.learning_rate, settings.weight_decay, settings.grad_clip)
        )
    best = folder / "best.weights.h5"

    def callbacks(first_epoch):
        losses = language_callbacks.validation_losses(folder / loop.METRICS, first_epoch)
        return [
            language_callbacks.CarriedState(),
            language_callbacks.StepLearningRate(
                lambda epoch: windows.rates(epoch, settings.learning_rate)
            ),
            language_callbacks.Perplexity(),
            # The best before averaging may start: it is of the weights that were evaluated.
            language_callbacks.BestWeights(best, losses),
            language_callbacks.StartAveraging(settings.nonmono, losses),
        ]

    run = loop.Run(
        title="train",
        folder=folder,
        epochs=settings.epochs,
        batches=loop.Batches(windows.steps, windows.batches, endless=False),
        validation_data=data.evaluation_windows(
            corpus.valid, settings.evaluation_batch_size, settings.bptt
        ),
        schedule=lambda epoch, _=None: settings.learning_rate,
        callbacks=callbacks,
        settings={**described, "dataset": corpus.name, **dataclasses.asdict(settings)},
        saving=saving,
    )
    loop.train(model, run, [model.optimizer])
    network.load_weights(best)
    network.reset_states()
    losses = {
        part: stream_loss(
            network, data.evaluation_windows(getattr(corpus, part), rows, settings.bptt)
        )
        for part, rows in (
            ("valid", settings.evaluation_batch_size),
            ("test", settings.test_batch_size),
        )
    }
    rows = loop.read_metrics(folder)
    metrics = {
        "test_perplexity": round(math.exp(losses["test"]), 4),
        "test_loss": round(losses["test"], 6),
        "valid_perplexity": round(math.exp(losses["valid"]), 4),
        "unigram_test_perplexity": round(corpus.unigram_perplexity("test"), 4),
        "unigram_valid_perplexity": round(corpus.unigram_perplexity("valid"), 4),
        "unknown_test_share": round(corpus.share("<unk>", "test"), 4),
        "line_end_test_share": round(corpus.share("<eos>", "test"), 4),
        "best_epoch": min(rows, key=lambda row: row["val_loss"])["epoch"],
        "averaged": model.optimizer.is_averaging,
        "weights": network.count_weights(),
        "vocabulary": len(corpus.vocabulary),
        "epochs": settings.epochs,
        "dataset": corpus.name,
        **described,
    }
    with files.replacing(folder / "model.keras", files.size_of(network.variables)) as partial:
        network.save(partial)
    common.write_json(folder / "metrics.json", metrics)
    return metrics


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    work_folder.define_flag(values)
    text.define_flags(values)
    flags.DEFINE_string(
        "genotype",
        "DARTS_V2",
        f"A published genotype ({', '.join(genotypes.zoo.names('rnn'))}), a file or its text.",
        flag_values=values,
    )
    common.define_settings(TrainSettings, HELP, values)
    work_folder.define_saving_flags(values)
    devices.define_device_flags(values)
    devices.define_precision_flag(values)
    devices.define_strategy_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    settings = common.settings_of(TrainSettings, values)
    genotype = genotypes.load_genotype(values.genotype, "rnn")
    work_folder.check(values)
    from darts_tf.data import fingerprint

    corpus = text.load(values)
    devices.configure_devices(values, branching=False)
    computation = devices.computation_of(values)
    check_batches(settings, computation)
    windows = windows_of(settings, corpus)
    steps = settings.epochs * len(windows.windows(0))
    devices.configure_devices(values, steps, branching=False)
    of_data = fingerprint.of_corpus(corpus, ("train", "valid", "test"))
    with work_folder.prepared(values, computation, of_data) as folder:
        metrics = train(
            settings, genotype, corpus, folder, computation, work_folder.saving_of(values)
        )
    print(report(metrics))
    print(f"metrics     {folder / 'metrics.json'}\nmodel       {folder / 'model.keras'}")
    return common.DONE


def report(metrics: dict) -> str:
    """The final figures in a line."""
    return (
        f"test perplexity {metrics['test_perplexity']:.2f} (unigrams "
        f"{metrics['unigram_test_perplexity']:.2f}; {100 * metrics['unknown_test_share']:.1f} % of "
        f"the words are <unk>), {metrics['weights']:,} weights"
    )


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
