"""darts_tf: differentiable architecture search (DARTS) for Keras 3 on TensorFlow 2.

The public names, and nothing else. They and the rooms are imported when first used, so that reading
genotypes does not load TensorFlow.
"""

import importlib

_HOMES = {
    "darts_tf.data": ["Augmentation", "normalization", "pair", "split"],
    "darts_tf.errors": ["InputError"],
    "darts_tf.genotype": ["Genotype", "RecurrentGenotype", "derive", "load_genotype"],
    "darts_tf.networks.evaluation": ["EvaluationNetwork"],
    "darts_tf.networks.language": ["RecurrentEvaluationNetwork", "RecurrentSupernet"],
    "darts_tf.networks.language_model": ["Regularization"],
    "darts_tf.networks.supernet": ["Supernet"],
    "darts_tf.report.export": ["export_saved_model"],
    "darts_tf.report.export_text": ["export_language_model"],
    "darts_tf.report.loading": ["load_model"],
    "darts_tf.report.plots": ["plot_alphas", "plot_genotype"],
    "darts_tf.search.architecture_search": ["ArchitectureSearch"],
    "darts_tf.space.recurrent": ["RecurrentDerivedCell"],
    "darts_tf.training.averaged_sgd": ["AveragedSGD"],
    "darts_tf.training.callbacks": [
        "AlphaHistory",
        "DropPathSchedule",
        "GenotypeFile",
        "MetricsLog",
        "Progress",
    ],
    "darts_tf.training.evaluation": ["ArchitectureEvaluation"],
    "darts_tf.training.guards": ["StopOnNotFinite"],
    "darts_tf.training.language": ["LanguageModelTraining"],
    "darts_tf.training.optimizers": ["SGD", "Adam", "cosine_schedule", "exponential_schedule"],
}
_ROOMS = ("data", "errors", "genotype", "networks", "report", "search", "space", "training")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"darts_tf.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'darts_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__():
    return [*__all__, *_ROOMS, "__version__"]
