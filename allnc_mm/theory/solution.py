"""What every simulator returns: the classifier and the class means, the table row made of them, and the files."""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ..fileio import whole_file
from ..functional.collapse import group_cosine, pairwise_cosines

COLLAPSED = 1e-6  # s_B below this share of s_A


@dataclass
class Solution:
    """A point that a simulator ended at.

    Group A are the head classes, group B the tail. Unless ``num_head`` says so, B are the classes of the smaller of two
    sizes, or the smaller half of more; balanced classes are all in A.

    Attributes:
        model (str): Which simulator.
        counts (np.ndarray): Samples of each class, (K,) float64.
        knobs (dict[str, float]): The settings that matter.
        loss (float): The objective.
        weight (Tensor): Classifier W, (K, d) float64.
        means (Tensor): Class means of the features, (K, d) float64.
        num_head (int, optional): The first so many classes are group A.
        nc1 (float): Variability within classes; NaN without a direction between them.
        threshold (float): The value of ``threshold_of`` at which group B collapses; NaN where there is none.
        threshold_of (str): The knob that the threshold belongs to.
        center_means (bool): Whether the means have to be centred before angles are read off (ReLU features).
        seconds (float): Time.
        extra (dict[str, float]): What only this simulator knows.
        curves (dict[str, list[float]]): What it recorded on its way.
    """
    model: str
    counts: np.ndarray
    knobs: dict[str, float]
    loss: float
    weight: Tensor = field(repr=False)
    means: Tensor = field(repr=False)
    num_head: int | None = None
    nc1: float = 0.0
    threshold: float = math.nan
    threshold_of: str = ''
    center_means: bool = False
    seconds: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def groups(self) -> tuple[Tensor, Tensor]:
        """Class indices of A and B."""
        sizes, number = np.unique(self.counts), len(self.counts)
        if self.num_head is not None or len(sizes) == 1:
            tail = np.arange(number) >= (number if self.num_head is None else self.num_head)
        else:
            tail = self.counts <= (sizes[0] if len(sizes) == 2 else np.sort(self.counts)[number // 2 - 1])
        return torch.from_numpy(np.flatnonzero(~tail)), torch.from_numpy(np.flatnonzero(tail))

    def spread(self, group: Tensor) -> float:
        """Largest singular value of the logits between the classes of a group: s_A or s_B; NaN below two classes."""
        if len(group) < 2:
            return math.nan
        weight, means = self.weight[group], self.means[group]
        logits = (weight - weight.mean(0)) @ (means - means.mean(0)).T
        return float(torch.linalg.matrix_norm(logits, 2))

    @cached_property
    def collapsed(self) -> bool | None:
        """bool | None: Whether the classes of B are one to the classifier; None without two classes in B."""
        head, tail = self.groups()
        if len(tail) < 2:
            return None
        scale = self.spread(head) if len(head) > 1 else float(torch.linalg.matrix_norm(self.weight @ self.means.T, 2))
        return self.spread(tail) <= COLLAPSED * scale

    @cached_property
    def geometry(self) -> dict[str, float]:
        """dict[str, float]: Cosines (means over the pairs) and ratios of lengths (means over the classes)."""
        head, tail = self.groups()
        row = {}
        for prefix, vectors, center in (('', self.weight, False), ('h_', self.means, self.center_means)):
            between = pairwise_cosines(vectors, center)[head[:, None], tail]
            between = between[~between.isnan()]
            row[f'{prefix}cos_AA'] = group_cosine(vectors, head, center)
            row[f'{prefix}cos_AB'] = float(between.mean()) if len(between) else math.nan
            row[f'{prefix}cos_BB'] = group_cosine(vectors, tail, center)
        for name, vectors in (('w_A/w_B', self.weight), ('h_A/h_B', self.means)):
            norms = vectors.norm(dim=1)
            shorter = float(norms[tail].mean()) if len(tail) else math.nan
            longer = float(norms[head].mean())
            row[name] = longer / shorter if shorter else math.inf if longer else math.nan
        return row

    def row(self) -> dict[str, float | str | bool | None]:
        """The row of the table, by column."""
        head, tail = self.groups()
        return dict(
            model=self.model, K_A=len(head), K_B=len(tail), n_A=float(self.counts[head].mean()),
            n_B=float(self.counts[tail].mean()) if len(tail) else math.nan, knobs=_knobs(self.knobs), loss=self.loss,
            nc1=self.nc1, **self.geometry, threshold=self.threshold, threshold_of=self.threshold_of,
            collapsed=self.collapsed, seconds=self.seconds, **self.extra)


TITLES = {'nc1': 'NC1', 'h_cos_AA': 'cos_AA (H)', 'h_cos_AB': 'cos_AB (H)', 'h_cos_BB': 'cos_BB (H)',
          'cos_AA': 'cos_AA (W)', 'cos_AB': 'cos_AB (W)', 'cos_BB': 'cos_BB (W)', 'w_A/w_B': '|w_A|/|w_B|',
          'h_A/h_B': '|h_A|/|h_B|', 'seconds': 's'}


def _knobs(knobs: dict[str, float]) -> str:
    return ' '.join(f'{name}={value:.6g}' for name, value in knobs.items())


def _cell(value: float | str | bool | None) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return '-'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.4f}' if value == 0 or 1e-2 <= abs(value) < 10 else f'{value:.5g}'
    return str(value)


def table(solutions: Sequence[Solution], extra: Sequence[str] = ()) -> Table:
    """One row a solution; what all rows share stands in the title, and columns without any value are left out.

    Args:
        solutions (Sequence[Solution]): The rows.
        extra (Sequence[str]): Entries of :attr:`Solution.extra` to show, too.
    """
    rows = [solution.row() for solution in solutions]
    shared = {name: value for name, value in solutions[0].knobs.items()
              if all(solution.knobs.get(name) == value for solution in solutions)}
    for row, solution in zip(rows, solutions):
        row['knobs'] = _knobs({name: value for name, value in solution.knobs.items() if name not in shared})
    columns = [name for name in rows[0] if name not in solutions[0].extra and name != 'threshold_of'] + list(extra)
    cells = {name: [_cell(row.get(name)) for row in rows] for name in columns}
    titles = dict(TITLES, threshold=f'threshold of {rows[0]["threshold_of"]}')
    fixed = [name for name in ('model', 'K_A', 'K_B', 'n_A', 'n_B', 'threshold')
             if len(set(cells[name])) == 1 and cells[name][0] not in ('-', '')]
    title = [cells[name][0] if name == 'model' else f'{titles.get(name, name)} {cells[name][0]}' for name in fixed]
    out = Table(title=', '.join([*title, _knobs(shared)]).rstrip(', '), title_justify='left', title_style='bold',
                pad_edge=False, collapse_padding=True)
    shown = [name for name in columns if name not in fixed and set(cells[name]) - {'-', ''}]
    for name in shown:
        out.add_column(titles.get(name, name), justify='left' if name in ('model', 'knobs') else 'right')
    for index in range(len(rows)):
        out.add_row(*(cells[name][index] for name in shown))
    return out


def save_json(solutions: Sequence[Solution], path: str | Path) -> None:
    """Write rows and curves; what is undefined or infinite is null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    content = [dict(solution.row(), knobs=solution.knobs, num_classes=len(solution.counts), curves=solution.curves)
               for solution in solutions]
    with whole_file(path) as part:
        Path(part).write_text(json.dumps(plain(content), indent=1) + '\n')
