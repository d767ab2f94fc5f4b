"""Reading models that were saved as `.keras` files."""

import os
import zipfile

import keras

# Naming a class registers it with Keras, which then finds it in a file.
from darts_tf.errors import InputError
from darts_tf.networks import evaluation, language, lstm, supernet  # noqa: F401
from darts_tf.search import architecture_search, published_second_order  # noqa: F401
from darts_tf.space import recurrent  # noqa: F401
from darts_tf.training import averaged_sgd, optimizers  # noqa: F401
from darts_tf.training import evaluation as training_evaluation  # noqa: F401
from darts_tf.training import language as training_language  # noqa: F401

REMEDY = "Give the model.keras of a training, or a file that `model.save` wrote."


def load_model(path: str | os.PathLike[str], compile: bool = True) -> keras.Model:
    """Reads a model of this package, or any Keras model, from a `.keras` file.

    It is `keras.models.load_model` in its safe mode, which runs no code of the file, with all
    classes of this package known.

    Args:
        path: The file.
        compile: Whether the model gets the optimizer and the losses it was saved with.

    Raises:
        InputError: There is no such file, it is no `.keras` file or damaged, or holds a class of
            somebody else that is not registered.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        stands = "is a folder" if os.path.isdir(path) else "does not exist"
        raise InputError(f"{path} {stands}, and a .keras file is expected. {REMEDY}")
    if not path.endswith(".keras"):
        raise InputError(f"{path} does not end in .keras, the only format that is read. {REMEDY}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no .keras file, or it was cut short. {REMEDY}")
    try:
        return keras.models.load_model(path, compile=compile)
    except Exception as error:  # Whatever a damaged file provokes, the answer is the same.
        # Keras puts the cause behind the configurations of all that holds it.
        cause = str(error).rpartition("Exception encountered: ")[2].partition(" Full object")[0]
        reason = (cause.strip() or type(error).__name__).splitlines()[0][:400]
        raise InputError(f"{path} cannot be read as a Keras model: {reason} {REMEDY}") from error
