"""From images to a deployed network: search, derive, train, export.

    python -m darts_tf.bin.pipeline --flagfile=flags/quickstart_digits.flags --workdir=RUN

The search is in RUN/search and the training in RUN/train; the results stand in RUN itself. The test
part of the data is used once, at the very end.
"""

import pathlib
import shutil
import sys

from absl import flags

from darts_tf.bin import common, images, search_cnn, train_cnn, work_folder
from darts_tf.bin.export import export
from darts_tf.bin.search_cnn import SearchSettings
from darts_tf.bin.train_cnn import TrainSettings


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags: those of the search with search_, of the training with train_."""
    work_folder.define_flag(values)
    images.define_flags(values)
    common.define_settings(SearchSettings, search_cnn.HELP, values, prefix="search_")
    common.define_settings(TrainSettings, train_cnn.HELP, values, prefix="train_")
    common.define_device_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    searching = common.settings_of(SearchSettings, values, prefix="search_")
    training = common.settings_of(TrainSettings, values, prefix="train_")
    work_folder.check(values)
    common.configure_devices(values)
    image_data = images.load(values)
    streams = train_cnn.streams_of_images(training, image_data)
    steps = searching.epochs * search_cnn.pairing_of(searching, image_data).steps_per_epoch
    common.configure_devices(values, max(steps, training.epochs * streams.train.steps_per_epoch))
    folder = work_folder.prepare(values)
    for name in ("search", "train", "plots"):
        (folder / name).mkdir(exist_ok=True)

    genotype = search_cnn.search(searching, image_data, folder / "search")
    metrics = train_cnn.train(training, genotype, values.dataset, streams, folder / "train")
    saved_model = folder / "saved_model"
    if not saved_model.exists():
        export(folder / "train", folder, ["saved_model"])
    _collect(folder)
    print(
        f"\ntest accuracy {100 * metrics['test_accuracy']:.2f} % with {metrics['weights']:,} "
        f"weights\ngenotype     {folder / 'genotype.json'}\n"
        f"cells        {folder / 'plots' / 'cells.svg'}\n"
        f"SavedModel   {saved_model}\n"
        f"metrics      {folder / 'metrics.json'}",
        flush=True,
    )
    return common.DONE


def _collect(folder: pathlib.Path) -> None:
    """Copies what a user looks for from the two stages into the work folder itself."""
    for stage, names in (
        ("search", ("genotype.json", "alphas.npz", "plots/cells.svg", "plots/alphas.png")),
        ("train", ("metrics.json", "model.keras", "data.json")),
    ):
        for name in names:
            shutil.copyfile(folder / stage / name, folder / name)


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
