"""From data to a deployed network: search, derive, train, export.

    python -m darts_tf.bin.pipeline --flagfile=flags/quickstart_digits.flags --workdir=RUN
    python -m darts_tf.bin.pipeline --flagfile=flags/quickstart_text.flags --workdir=RUN

The data set decides what is searched: a convolutional cell for images, a recurrent one for text
(--dataset=python_topics, or text). The search is in RUN/search and the training in RUN/train; the
results stand in RUN itself. The test part of the data is used once, at the very end.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

from absl import flags

from darts_tf import files
from darts_tf.bin import (
    common,
    devices,
    images,
    search_cnn,
    search_rnn,
    text,
    train_cnn,
    train_rnn,
    work_folder,
)
from darts_tf.bin.export import export
from darts_tf.errors import InputError

STAGES = {
    "images": (("search_", search_cnn.SearchSettings), ("train_", train_cnn.TrainSettings)),
    "text": (("search_", search_rnn.SearchSettings), ("train_", train_rnn.TrainSettings)),
}
"""The settings of the stages, with what their flags begin with, for images and for text."""


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags: those of the search with search_, of the training with train_."""
    work_folder.define_flag(values)
    images.define_flags(values)
    values["dataset"].help += " Or a text: python_topics (built in), text (in --data_dir)."
    text.define_flags(values)
    helps = {search_rnn.SearchSettings: search_rnn.HELP, train_rnn.TrainSettings: train_rnn.HELP}
    for (prefix, of_images), (_, of_text) in zip(*STAGES.values(), strict=True):
        module = search_cnn if of_images is search_cnn.SearchSettings else train_cnn
        common.define_settings(of_images, module.HELP, values, prefix)
        known = {field.name: field.default for field in dataclasses.fields(of_images)}
        new = []
        for field in dataclasses.fields(of_text):
            if field.name not in known:
                new.append((field.name, field.type, field))
            elif field.default != known[field.name]:
                # What it is by default, only the data set tells: `settle`.
                flag = values[prefix + field.name]
                flag.help += (
                    f" By default {known[field.name]} for images, {field.default} for text."
                )
                values.set_default(prefix + field.name, None)
        only_text = dataclasses.make_dataclass("OnlyText", new)
        common.define_settings(only_text, helps[of_text], values, prefix)
    work_folder.define_saving_flags(values)
    devices.define_device_flags(values)
    devices.define_computation_flags(values)
    devices.define_recompute_flag(values)
    devices.define_strategy_flags(values)


def settle(values: flags.FlagValues) -> str:
    """Gives the flags their defaults for the kind of data; returns it, "images" or "text"."""
    kind = "text" if values.dataset in text.DATASETS else "images"
    for prefix, settings in STAGES[kind]:
        for field in dataclasses.fields(settings):
            if values[prefix + field.name].value is None:
                values.set_default(prefix + field.name, field.default)
    return kind


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    kind = settle(values)
    searching, training = (
        common.settings_of(settings, values, prefix) for prefix, settings in STAGES[kind]
    )
    work_folder.check(values)
    run = _images if kind == "images" else _text
    said, metrics = run(values, searching, training)
    folder = pathlib.Path(values.workdir)
    print(
        f"\n{said}\ngenotype     {folder / 'genotype.json'}\n"
        f"cells        {folder / 'plots' / 'cells.svg'}\n"
        f"SavedModel   {folder / 'saved_model'}\n"
        f"metrics      {folder / 'metrics.json'}",
        flush=True,
    )
    return common.DONE


def _images(values, searching, training) -> tuple[str, dict]:
    """Both stages for images; returns what is said of them, and the final figures."""
    from darts_tf.data import fingerprint

    devices.configure_devices(values)
    computation = devices.computation_of(values)
    image_data = images.load(values)
    streams = train_cnn.streams_of_images(training, image_data, "train_")
    train_cnn.check_batches(training, streams, computation, "--train_batch_size")
    pairing = search_cnn.pairing_of(searching, image_data)
    search_cnn.check_batches(searching, pairing, computation, "--search_batch_size")
    steps = searching.epochs * pairing.steps_per_epoch
    devices.configure_devices(values, max(steps, training.epochs * streams.train.steps_per_epoch))
    saving = work_folder.saving_of(values)
    of_data = fingerprint.of_images(image_data, ("train", "validation", "test"))
    with _prepared(values, computation, of_data) as folder:
        genotype = search_cnn.search(
            searching, image_data, pairing, folder / "search", computation, saving
        )
        metrics = train_cnn.train(
            training, genotype, values.dataset, streams, folder / "train", computation, saving
        )
        _finish(folder, "data.json")
    accuracy = f"{100 * metrics['test_accuracy']:.2f}"
    return f"test accuracy {accuracy} % with {metrics['weights']:,} weights", metrics


def _text(values, searching, training) -> tuple[str, dict]:
    """Both stages for text."""
    from darts_tf.data import fingerprint

    if values.split != values["split"].default:
        raise InputError(
            "--split is of images: a text has no classes. Leave it out, or name images with "
            f"--dataset. Received: --split={values.split}, --dataset={values.dataset}."
        )
    corpus = text.load(values)
    devices.configure_devices(values, branching=False, one_thread=True)
    computation = devices.computation_of(values)
    for prefix, settings in (("--search_", searching), ("--train_", training)):
        search_rnn.check_batches(settings, computation, prefix)
    windows = search_rnn.windows_of(searching, corpus).train, train_rnn.windows_of(training, corpus)
    steps = (
        settings.epochs * len(w.windows(0))
        for settings, w in zip((searching, training), windows, strict=True)
    )
    devices.configure_devices(values, max(steps), branching=False, one_thread=True)
    saving = work_folder.saving_of(values)
    of_data = fingerprint.of_corpus(corpus, ("train", "valid", "test"))
    with _prepared(values, computation, of_data) as folder:
        genotype = search_rnn.search(searching, corpus, folder / "search", computation, saving)
        metrics = train_rnn.train(training, genotype, corpus, folder / "train", computation, saving)
        _finish(folder, text.VOCABULARY)
    return train_rnn.report(metrics), metrics


@contextlib.contextmanager
def _prepared(values, computation: devices.Computation, of_data: dict) -> Iterator[pathlib.Path]:
    """The work folder with those of the stages; `of_data` is the fingerprint of the data."""
    with work_folder.prepared(values, computation, of_data) as folder:
        for name in ("search", "train", "plots"):
            files.make_folder(folder / name)
        yield folder


def _finish(folder: pathlib.Path, description: str) -> None:
    """Exports, and copies what a user looks for from the two stages into the work folder itself."""
    if not (folder / "saved_model").exists():
        export(folder / "train", folder, ["saved_model"])
    for stage, names in (
        ("search", ("genotype.json", "alphas.npz", "plots/cells.svg", "plots/alphas.png")),
        ("train", ("metrics.json", "model.keras", description)),
    ):
        for name in names:
            files.write(folder / name, (folder / stage / name).read_bytes())


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
