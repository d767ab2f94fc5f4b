"""Compares a derived recurrent cell with random cells and an LSTM: same weights, same budget.

    python -m darts_tf.bin.compare_rnn --flagfile=flags/compare_rnn_ptb.flags --genotype=FILE \
        --data_dir=... --workdir=...

Each kind of cell is trained with every one of --learning_rates and the first seed, and then, at the
rate with the best validation perplexity, with the other seeds; a rate at which it diverges is
passed over. A seed decides initial values, windows and dropout, and which random cell is drawn.
Everything else is the same for all, but for the LSTM's width, which gives it about as many weights.
Every training has a folder of its own in the work folder, as of train_rnn; results are in
comparison.json.
"""

import dataclasses
import pathlib
import statistics
import sys

from absl import flags

from darts_tf import genotype as genotypes
from darts_tf import reading
from darts_tf.bin import common, devices, search_rnn, text, train_rnn, work_folder
from darts_tf.errors import InputError

KINDS = ("derived", "random", "lstm")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags: those of train_rnn and two more."""
    train_rnn.define_flags(values)
    flags.DEFINE_list(
        "learning_rates",
        [],
        "Learning rates to choose from, by the validation perplexity of the first seed; "
        "--learning_rate if none are given.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds",
        3,
        "Number of trainings of each kind of cell: with --seed and those that follow it.",
        lower_bound=1,
        flag_values=values,
    )


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    settings = common.settings_of(train_rnn.TrainSettings, values)
    rates = learning_rates(settings, values.learning_rates)
    genotype = genotypes.load_genotype(values.genotype, "rnn")
    work_folder.check(values)
    from darts_tf.data import fingerprint

    corpus = text.load(values)
    devices.configure_devices(values, branching=False)
    if common.multi_worker(values):
        raise InputError("compare_rnn runs on one machine: leave out --strategy=multi_worker.")
    computation = devices.computation_of(values)
    search_rnn.check_batches(settings, computation)
    train_rnn.windows_of(settings, corpus)
    saving = work_folder.saving_of(values)
    of_data = fingerprint.of_corpus(corpus, ("train", "valid", "test"))
    prepared = work_folder.prepared(values, computation, of_data)
    with prepared as folder, computation.scope():
        results = [
            compare(kind, genotype, settings, rates, values.seeds, corpus, folder, saving)
            for kind in KINDS
        ]
        common.write_json(folder / "comparison.json", {"cells": results})
    print(table(results))
    print(f"results     {folder / 'comparison.json'}")
    return common.DONE


def learning_rates(settings: train_rnn.TrainSettings, given: list[str]) -> list[float]:
    """The learning rates of the flags.

    Raises:
        InputError: One is no number, or out of its range.
    """
    try:
        rates = [float(rate) for rate in given] or [settings.learning_rate]
    except ValueError as error:
        raise InputError(
            "--learning_rates must be numbers with commas between them. "
            f"Received: --learning_rates={','.join(given)}."
        ) from error
    for rate in rates:
        dataclasses.replace(settings, learning_rate=rate)  # checks the range
    return rates


def compare(
    kind: str,
    genotype: genotypes.RecurrentGenotype,
    settings: train_rnn.TrainSettings,
    rates: list[float],
    seeds: int,
    corpus,
    folder: pathlib.Path,
    saving,
) -> dict:
    """Trains one kind of cell with all rates and seeds.

    Returns:
        What comparison.json says of it: the chosen rate, perplexities with mean and standard
        deviation over the seeds, and the validation perplexity of each rate.

    Raises:
        NotFinite: All rates diverge, or the chosen one with another seed.
    """

    from darts_tf.training.guards import NotFinite

    def trained(rate, seed):
        at = dataclasses.replace(settings, learning_rate=rate, seed=seed)
        run = folder / f"{kind}_rate{rate:g}_seed{seed}"
        metrics = train(kind, genotype, at, corpus, run, saving)
        return {**metrics, "training_seconds": loop.training_seconds(run)}

    from darts_tf.training import loop

    first = {}
    for rate in rates:
        try:
            first[rate] = trained(rate, settings.seed)
        except NotFinite as error:
            print(error, flush=True)
    if not first:
        raise NotFinite(
            f"The {kind} cell diverged with every learning rate. Received: --learning_rates="
            f"{','.join(f'{rate:g}' for rate in rates)}. Give lower ones."
        )
    rate = min(first, key=lambda rate: first[rate]["valid_perplexity"])
    others = range(settings.seed + 1, settings.seed + seeds)
    runs = [first[rate], *(trained(rate, seed) for seed in others)]
    result = {
        "kind": kind,
        "weights": runs[0]["weights"],
        "learning_rate": rate,
        "rates_tried": {
            f"{r:g}": first[r]["valid_perplexity"] if r in first else "diverged" for r in rates
        },
    }
    for part in ("valid", "test"):
        found = [run[f"{part}_perplexity"] for run in runs]
        result[f"{part}_perplexity"] = {
            "mean": round(statistics.mean(found), 2),
            "deviation": round(statistics.stdev(found), 2) if seeds > 1 else None,
            "all": found,
        }
    result["training_seconds"] = [run["training_seconds"] for run in runs]
    result["cells"] = [run["cell"] for run in runs]
    return result


def train(
    kind: str,
    genotype: genotypes.RecurrentGenotype,
    settings: train_rnn.TrainSettings,
    corpus,
    folder: pathlib.Path,
    saving,
) -> dict:
    """One training: its final figures; those of a finished one are read."""
    if (folder / "metrics.json").exists():
        remedy = "Remove that file to have this training done again."
        return reading.read_object(folder / "metrics.json", "final figures", remedy)
    import keras

    from darts_tf.networks import language, lstm

    print(f"{kind}: learning rate {settings.learning_rate:g}, seed {settings.seed}", flush=True)
    folder.mkdir(exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    common_part = {
        "vocabulary_size": len(corpus.vocabulary),
        "batch_size": settings.batch_size,
        "evaluation_batch_size": settings.evaluation_batch_size,
        "regularization": train_rnn.regularization_of(settings),
        "seed": settings.seed,
    }
    if kind == "random":
        genotype = genotypes.random_recurrent(settings.seed, len(genotype.recurrent))
    network = language.RecurrentEvaluationNetwork(genotype, width=settings.nhid, **common_part)
    cell = genotype.to_text()
    if kind == "lstm":
        width = lstm.width_of(len(corpus.vocabulary), network.count_weights())
        network = lstm.LSTMNetwork(width=width, **common_part)
        cell = f"LSTM {width} wide"
    return train_rnn.train_network(settings, network, corpus, folder, {"cell": cell}, saving)


def table(results: list[dict]) -> str:
    """The results in lines for reading."""
    lines = [f"{'cell':10}{'weights':>12}{'rate':>8}  validation perplexity  test perplexity"]
    for result in results:
        valid, test = (
            f"{found['mean']:.2f}"
            + (f" +- {found['deviation']:.2f}" if found["deviation"] is not None else "")
            for found in (result["valid_perplexity"], result["test_perplexity"])
        )
        lines.append(
            f"{result['kind']:10}{result['weights']:>12,}{result['learning_rate']:>8g}  "
            f"{valid:21}  {test}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
