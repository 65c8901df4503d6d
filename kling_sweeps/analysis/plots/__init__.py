"""Pictures of a sweep for a notebook: each function takes a table and returns a matplotlib figure.

    from kling_sweeps.analysis import effects, runs_df
    from kling_sweeps.analysis.plots import plot_effects, plot_metrics

    runs = runs_df("cfg")
    plot_metrics(runs, "cfg_scale")
    plot_effects(effects(runs, "cfg_scale"))

A figure shows itself as the last expression of a cell, and has `savefig`. Where there is nothing to draw,
it says why. They need the extra `notebooks`: importing this without it raises ImportError.
"""

from kling_sweeps.analysis.plots.budgets import plot_budget
from kling_sweeps.analysis.plots.effects import plot_effects
from kling_sweeps.analysis.plots.expenses import plot_money, plot_time
from kling_sweeps.analysis.plots.figure import Picture
from kling_sweeps.analysis.plots.levels import plot_cells, plot_metrics
from kling_sweeps.analysis.plots.preferences import plot_agreement, plot_preferences
from kling_sweeps.analysis.plots.videos import plot_filmstrips, plot_frames

__all__ = [
    "Picture",
    "plot_agreement",
    "plot_budget",
    "plot_cells",
    "plot_effects",
    "plot_filmstrips",
    "plot_frames",
    "plot_metrics",
    "plot_money",
    "plot_preferences",
    "plot_time",
]
