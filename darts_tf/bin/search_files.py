"""What every search leaves in its work folder: alphas, genotype and pictures."""

import pathlib
from typing import Any

from darts_tf import genotype as genotypes


def callbacks(folder: pathlib.Path, first_epoch: int, provenance: dict[str, Any]) -> list:
    """Those that write alphas and genotype after every epoch.

    Args:
        folder: The work folder.
        first_epoch: Number of the first epoch of this process, counted from 0.
        provenance: How the genotype is found.
    """
    import darts_tf

    return [
        darts_tf.AlphaHistory(folder / "alphas.npz", first_epoch),
        darts_tf.GenotypeFile(folder / "genotype.json", provenance),
    ]


def draw(folder: pathlib.Path) -> genotypes.Genotype | genotypes.RecurrentGenotype:
    """Draws the cells that were found, and the alphas over the epochs; returns the genotype."""
    from darts_tf.report import plots

    found = genotypes.load(folder / "genotype.json")
    (folder / "plots").mkdir(exist_ok=True)
    plots.plot_genotype(found, folder / "plots" / "cells.svg")
    plots.plot_alphas(genotypes.load_alphas(folder / "alphas.npz"), folder / "plots" / "alphas.png")
    return found


def report(folder: pathlib.Path, found: genotypes.Genotype | genotypes.RecurrentGenotype) -> str:
    """The genotype, and where everything is."""
    return (
        f"genotype    {folder / 'genotype.json'}\n            {found.to_text()}\n"
        f"pictures    {folder / 'plots'}\nmetrics     {folder / 'metrics.jsonl'}"
    )
