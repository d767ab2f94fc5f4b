"""Export of a language model: a SavedModel that needs nothing of this package to run."""

import json
import os
import pathlib
import re
import sys
import tempfile

import numpy as np
import tensorflow as tf

from darts_tf import files
from darts_tf.errors import InputError
from darts_tf.networks.language import RecurrentEvaluationNetwork
from darts_tf.space.tracing import full_precision

ASSETS = ("genotype.json", "vocabulary.json")
TOLERANCE = 1e-5


def export_language_model(
    network: RecurrentEvaluationNetwork,
    path: str | os.PathLike[str],
    words: list[str],
    unknown: str = "<unk>",
    end: str = "<eos>",
) -> None:
    """Writes a SavedModel with three endpoints, and checks it.

    `serve` (and `serving_default`): `tokens` (batch, time) int32 word numbers and `state` (batch,
    width) float32 to `log_probabilities` (batch, time, vocabulary) of the word after each, and
    the next `state`. Any batch and time, so that text can be scored at once or generated word by
    word.

    `serve_text`: `text` (batch,) strings, read as those of a corpus are, and `state` to the same
    and `tokens` (batch, time) and `lengths` (batch,); rows are filled up after their length, and
    the `state` is that after the last word of each row. White space parts words; the end of a line
    becomes `end`, where that does not stand already; a row that ends without one may be continued.

    `initial_state`: `batch` () int32 to `state`, with which a text begins.

    In the assets: genotype.json and vocabulary.json.

    Args:
        network: A derived language model, trained.
        path: Folder to write; it must not exist or be empty.
        words: The vocabulary, in the order of the word numbers.
        unknown: The word of the vocabulary that stands for all others.
        end: The word of the vocabulary at the end of a line.

    Raises:
        InputError: The folder is not empty, the vocabulary does not fit, or the written model's
            outputs differ from the network's.
        OSError: The file system refuses.
    """
    path = files.checked_new_folder(path)
    if len(words) != network.vocabulary_size:
        raise InputError(
            f"words must have {network.vocabulary_size} entries, one for each number of the "
            f"network. Received: {len(words)}."
        )
    for word, purpose in ((unknown, "unknown words"), (end, "the end of a line")):
        if word not in words:
            raise InputError(f"The vocabulary has no word {word!r} for {purpose}.")

    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(words)), tf.range(len(words), dtype=tf.int32)
        ),
        default_value=list(words).index(unknown),
    )
    state = tf.TensorSpec((None, network.width), tf.float32, name="state")

    def serve(tokens, state, lengths=None):
        with full_precision():  # whatever the policy that it was trained with
            state = tf.cast(state, network.embedding.dtype)
            result = network.forward(tokens, state, lengths=lengths)
        return {
            "log_probabilities": tf.cast(tf.nn.log_softmax(result.logits), tf.float32),
            "state": tf.cast(result.hidden, tf.float32),
        }

    def serve_text(text, state):
        ragged = module.table.lookup(tf.strings.split(_marked(text, end)))
        tokens, lengths = ragged.to_tensor(), tf.cast(ragged.row_lengths(), tf.int32)
        return {**serve(tokens, state, lengths), "tokens": tokens, "lengths": lengths}

    tokens = tf.TensorSpec((None, None), tf.int32, name="tokens")
    module.serve = tf.function(serve, input_signature=[tokens, state], autograph=False)
    module.serve_text = tf.function(
        serve_text,
        input_signature=[tf.TensorSpec((None,), tf.string, name="text"), state],
        autograph=False,
    )
    module.initial_state = tf.function(
        lambda batch: {"state": tf.zeros([batch, network.width])},
        input_signature=[tf.TensorSpec((), tf.int32, name="batch")],
        autograph=False,
    )
    signatures = {
        name: getattr(module, name).get_concrete_function()
        for name in ("serve", "serve_text", "initial_state")
    }
    signatures["serving_default"] = signatures["serve"]
    module.weights = list(signatures["serve"].variables)
    with tempfile.TemporaryDirectory() as folder, files.new_folder(path) as partial:
        contents = (
            network.genotype.to_json(),
            json.dumps({"words": list(words)}, ensure_ascii=False) + "\n",
        )
        for name, content in zip(ASSETS, contents, strict=True):
            (pathlib.Path(folder) / name).write_text(content, encoding="utf-8")
        module.assets = [tf.saved_model.Asset(os.path.join(folder, name)) for name in ASSETS]
        tf.saved_model.save(module, os.fspath(partial), signatures=signatures)
        _check(partial, serve, network, path)


def _marked(text: tf.Tensor, end: str) -> tf.Tensor:
    """The text in one line, its words parted by spaces, with one `end` for each end of a line."""
    # What str.split() parts words by, and TensorFlow's split only in part.
    blank = "".join(c for c in map(chr, range(sys.maxunicode)) if c.isspace() and c not in "\n\r")
    text = tf.strings.regex_replace(text, "\r\n?", "\n")
    text = tf.strings.regex_replace(text, f"[{blank}]", " ")
    text = tf.strings.regex_replace(text, f"(?m)(^| ){re.escape(end)} *\n", "\n")
    return tf.strings.regex_replace(text, "\n", f" {end} ".replace("\\", r"\\"))


def _check(
    folder: pathlib.Path, serve, network: RecurrentEvaluationNetwork, path: pathlib.Path
) -> None:
    """Compares the written model with the network: whole texts, and word by word."""
    loaded = tf.saved_model.load(os.fspath(folder))
    generator = np.random.default_rng(0)
    for batch, time in ((1, 7), (3, 4)):
        tokens = generator.integers(0, network.vocabulary_size, (batch, time), dtype=np.int32)
        state = generator.normal(size=(batch, network.width)).astype(np.float32)
        expected = serve(tf.constant(tokens), tf.constant(state))
        together = loaded.serve(tokens, state)
        worst = max(float(tf.reduce_max(tf.abs(together[k] - expected[k]))) for k in expected)
        for t in range(time):
            one = loaded.serve(tokens[:, t : t + 1], state)
            state = one["state"]
            difference = one["log_probabilities"][:, 0] - expected["log_probabilities"][:, t]
            worst = max(worst, float(tf.reduce_max(tf.abs(difference))))
        scale = max(1.0, float(tf.reduce_max(tf.abs(expected["log_probabilities"]))))
        if not worst <= TOLERANCE * scale:
            raise InputError(
                f"The SavedModel for {path} differs from the network by {worst:.2g}, more than "
                f"{TOLERANCE * scale:.0e}, and was not kept."
            )
