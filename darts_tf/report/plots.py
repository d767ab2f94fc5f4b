"""The pictures that users ask for, by format of their path."""

from darts_tf.report.alpha_plot import plot_alphas
from darts_tf.report.cell_plot import plot_genotype

__all__ = ["plot_alphas", "plot_genotype"]
