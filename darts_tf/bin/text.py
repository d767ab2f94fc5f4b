"""The flags that name a text, and the corpus they name."""

import pathlib

from absl import flags

from darts_tf import reading
from darts_tf.bin import common
from darts_tf.errors import InputError, unknown_name

BUILT_IN, FOLDER = "python_topics", "text"
DATASETS = (BUILT_IN, FOLDER)

VOCABULARY = "vocabulary.json"
LARGEST_VOCABULARY = 256 * reading.MEBIBYTE


def define_flags(values: flags.FlagValues) -> None:
    """Defines --dataset and --data_dir, where they are not yet, --vocabulary and --min_count."""
    if "dataset" not in values:
        flags.DEFINE_string(
            "dataset",
            BUILT_IN,
            "python_topics (built in), or text: train.txt, valid.txt and test.txt in --data_dir.",
            flag_values=values,
        )
        flags.DEFINE_string("data_dir", None, "Folder of the text.", flag_values=values)
        flags.DEFINE_integer(
            "limit",
            None,
            "Use the first words of each part only, for trials.",
            lower_bound=2,
            flag_values=values,
        )
    flags.DEFINE_enum(
        "vocabulary",
        "all",
        ["all", "train"],
        "Where the words of a text come from: all three files, as published, or train.txt, other "
        "words being unknown.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "min_count",
        1,
        "Words of a text that train.txt holds less often are unknown.",
        lower_bound=1,
        flag_values=values,
    )


def load(values: flags.FlagValues):
    """Loads the text: a `darts_tf.data.Corpus`.

    Raises:
        InputError: It is not known, or cannot be read.
    """
    if values.dataset not in DATASETS:
        raise unknown_name("text", values.dataset, DATASETS)
    import dataclasses

    from darts_tf import data

    if values.dataset == BUILT_IN:
        corpus = data.builtin_corpus()
    elif values.data_dir is None:
        raise InputError(
            "--dataset=text needs --data_dir, the folder that holds train.txt, valid.txt and "
            "test.txt. Received no --data_dir."
        )
    else:
        corpus = data.load_corpus(values.data_dir, values.vocabulary, values.min_count)
    if values.limit is None:
        return corpus
    parts = {part: getattr(corpus, part)[: values.limit] for part in ("train", "valid", "test")}
    return dataclasses.replace(corpus, **parts)


def save_vocabulary(folder: pathlib.Path, vocabulary) -> None:
    """Writes vocabulary.json: the words of a model in the order of their numbers."""
    common.write_json(folder / VOCABULARY, {"words": list(vocabulary.words)})


def load_vocabulary(folder: pathlib.Path):
    """Reads vocabulary.json: a `darts_tf.data.Vocabulary`.

    Raises:
        InputError: It cannot be read.
    """
    from darts_tf import data

    path, remedy = folder / VOCABULARY, "Train again to make it anew."
    content = reading.read_object(path, "vocabulary", remedy, LARGEST_VOCABULARY)
    words = content.get("words")
    if not isinstance(words, list):
        raise InputError(f'Vocabulary {path} has no list "words". {remedy}')
    try:
        return data.Vocabulary(words)
    except InputError as error:
        raise InputError(f"Vocabulary {path} cannot be used: {error} {remedy}") from error
