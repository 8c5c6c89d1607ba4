"""Command line of the simulators: ``python -m allnc_mm.theory MODEL --help``."""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from . import plots
from .allnc import allnc_sweep
from .blocks import two_groups
from .fixed_etf import fixed_etf
from .layer_peeled import layer_peeled_sweep
from .relu import relu_ufm, relu_ufm_descent
from .solution import save_json, table
from .spherical import spherical
from .ulpm import gradient_flow
from .weight_decay import collapse_ratio, seli, weight_decay_ufm


def counts(token: str) -> list[float]:
    """Class counts of one word: ``50``, or ``3*50`` for three classes of 50."""
    number, star, size = token.rpartition('*')
    try:
        return [float(size)] * (int(number) if star else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a count such as 50, or 3*50 for three classes of 50, but got '
                                         f'{token!r}') from None


def ratios(args, fine: int = 1) -> list[float]:
    """Log-spaced ratios; every ``fine``-th of them is one of the table's."""
    low, high = args.ratios
    if not 1 <= low <= high < math.inf:
        raise ValueError(f'Expected --ratios LOW HIGH with 1 <= LOW <= HIGH, but got {low:g} {high:g}.')
    if args.points < 1:
        raise ValueError(f'Expected --points of at least 1, but got {args.points}.')
    return np.geomspace(low, high, fine * (args.points - 1) + 1).tolist() if high > low else [low]


def groups(args, fine: int = 1) -> list[np.ndarray]:
    return [two_groups(*args.classes, ratio, args.samples) for ratio in ratios(args, fine)]


def fine(args) -> int:
    """Points of a curve for each row of the table; of many classes, whose vectors are all kept, the rows alone."""
    return 8 if sum(args.classes) <= 200 else 1


# Each command returns its solutions, those of the table, entries of `extra` in it, and the figure.
def ulpm(args):
    solution = gradient_flow(sum(args.counts, []), args.dim, steps=args.steps, step_size=args.step_size,
                             clock=args.clock, scale=args.scale, seed=args.seed)
    shown = ('log_loss', 'log10_t', 'margin', 'norm/margin', 'optimum', 'std_cos_W', 'NC3', 'W2/H2', 'drift')
    return [solution], [solution], shown, plots.flow(solution)


def layer_peeled(args):
    found = layer_peeled_sweep(*args.classes, ratios(args, fine(args)), *args.energies, tail_samples=args.samples)
    figure = plots.sweep({'cross-entropy': found}, found[0].threshold, ('cos_BB', 'h_cos_BB'))
    return found, found[::fine(args)], ('gap', ), figure


def weight_decay(args):
    head, tail = args.classes
    threshold = collapse_ratio(head, tail, args.samples, *args.decays)
    found = [weight_decay_ufm(n, *args.decays, args.bias_decay, num_head=head) for n in groups(args, fine(args))]
    for solution in found:
        solution.threshold, solution.threshold_of = threshold, 'R'
    figure = plots.sweep({'weight decay': found}, threshold if threshold >= 1 else math.nan, ('cos_BB', 'h_cos_BB'))
    return found, found[::fine(args)], ('s_A', 's_B', 'gap'), figure


def seli_sweep(args):
    found = [seli(n, num_head=args.classes[0]) for n in groups(args, fine(args))]
    return found, found[::fine(args)], (), plots.sweep({'SELI': found}, measures=('cos_BB', 'h_cos_BB'))


def relu(args):
    sizes = sum(args.counts, [])
    found = [relu_ufm(sizes, *args.decays)]
    if args.descent:
        found.append(relu_ufm_descent(sizes, *args.decays, seed=args.seed))
    return found, found, ('vanished', ), plots.classes(found)


def etf(args):
    head = args.classes[0]
    found = [fixed_etf(n, args.dim, *args.energies, loss=args.loss, form=args.form, seed=args.seed, num_head=head)
             for n in groups(args)]
    learned = layer_peeled_sweep(*args.classes, ratios(args, fine(args)), *args.energies, tail_samples=args.samples)
    figure = plots.sweep({'learned classifier': learned, 'fixed ETF': found}, learned[0].threshold,
                         ('cos_BB', 'h_cos_BB'))
    return [*found, *learned], found, ('min_cos', ), figure


def sphere(args):
    found = spherical(args.num_classes, args.dim, args.temperatures, restarts=args.restarts, seed=args.seed)
    return found, found, ('rho', '1-max_cos', '-tau*log_loss', 'GNC3'), plots.temperatures(found)


def allnc(args):
    entropy = layer_peeled_sweep(*args.classes, ratios(args, fine(args)), *args.energies, tail_samples=args.samples)
    settings = dict(hycon=args.hycon, p2p=args.p2p, q=args.q, dim=args.dim, tail_samples=args.samples,
                    threshold=entropy[0].threshold, seed=args.seed)
    angles, found = (allnc_sweep(*args.classes, ratios(args), *args.energies, eta=eta, **settings)
                     for eta in (1.0, args.eta))
    figure = plots.sweep({'cross-entropy': entropy, 'cross-entropy, HyCon, P2P': angles,
                          f'AllNC: all three terms, eta = {args.eta:g}': found}, entropy[0].threshold)
    return [*entropy, *angles, *found], [*entropy[::fine(args)], *angles, *found], (), figure


def build_parser() -> argparse.ArgumentParser:
    """The parser, one subcommand a model."""
    parser = argparse.ArgumentParser(prog='python -m allnc_mm.theory', description='Simulators of the last layer with '
                                     'unconstrained features; each prints a table and writes a JSON and a PNG.')
    models = parser.add_subparsers(dest='model', required=True, metavar='MODEL')

    def add(name, run, text):
        command = models.add_parser(name, help=text, description=text,
                                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(run=run)
        command.add_argument('--json', metavar='FILE', help='rows and curves', default=f'work_dirs/theory/{name}.json')
        command.add_argument('--png', metavar='FILE', help='picture', default=f'work_dirs/theory/{name}.png')
        command.add_argument('--seed', type=int, default=0, help='of random starts')
        return command

    def add_groups(command, high=100.0, samples=10.0, points=13):
        command.add_argument('--classes', type=int, nargs=2, default=(5, 5), metavar=('K_A', 'K_B'),
                             help='majority and minority classes')
        command.add_argument('--ratios', type=float, nargs=2, default=(1.0, high), metavar=('LOW', 'HIGH'),
                             help='range of R = n_A / n_B')
        command.add_argument('--points', type=int, default=points, help='values of R in the range')
        command.add_argument('--samples', type=float, default=samples, metavar='n_B', help='of a minority class')

    def add_energies(command):
        command.add_argument('--energies', type=float, nargs=2, default=(1.0, 5.0), metavar=('E_W', 'E_H'),
                             help='mean squared lengths of classifier and features')

    def add_counts(command, default):
        command.add_argument('--counts', type=counts, nargs='+', default=[counts(word) for word in default.split()],
                             metavar='N', help=f'class counts; 3*50 is three classes of 50 (the default is {default})')

    def add_decays(command):
        command.add_argument('--decays', type=float, nargs=2, default=(0.005, 0.005),
                             metavar=('lambda_W', 'lambda_H'), help='weight decay')

    command = add('ulpm', ulpm, 'gradient flow without weight decay or constraint')
    add_counts(command, '4*10')
    command.add_argument('--dim', type=int, default=8, help='feature dimension')
    command.add_argument('--steps', type=int, default=3000, help='steps')
    command.add_argument('--step-size', type=float, default=0.02, help='(first) step')
    command.add_argument('--clock', choices=('loss', 'time'), default='loss', help='time over the loss, or plain time')
    command.add_argument('--scale', type=float, default=0.5, help='of the random start')

    command = add('layer-peeled', layer_peeled, 'norm constraints: minority collapse at a finite ratio R*')
    add_groups(command)
    add_energies(command)

    command = add('weight-decay', weight_decay, 'weight decay: a sharp threshold sqrt(n_B) / N')
    add_groups(command, high=10.0, samples=100.0)
    add_decays(command)
    command.add_argument('--bias-decay', type=float, help='lambda_b of a bias')

    command = add('seli', seli_sweep, 'vanishing weight decay under imbalance')
    add_groups(command, high=1000.0)

    command = add('relu', relu, 'non-negative features: classes vanish')
    add_counts(command, '400 200 50 12')
    add_decays(command)
    command.add_argument('--descent', action='store_true', help='solve numerically, too')

    command = add('fixed-etf', etf, 'a fixed ETF classifier: the contrast')
    add_groups(command, high=1000.0, points=7)
    add_energies(command)
    command.add_argument('--dim', type=int, help='feature dimension (default: K - 1)')
    command.add_argument('--loss', choices=('ce', 'dr'), default='ce', help='cross-entropy or dot regression')
    command.add_argument('--form', choices=('paper', 'released'), default='paper', help='of the dot regression')

    command = add('spherical', sphere, 'unit vectors and a temperature, K > d + 1')
    command.add_argument('--num-classes', type=int, default=8, help='K')
    command.add_argument('--dim', type=int, default=3, help='feature dimension')
    command.add_argument('--temperatures', type=float, nargs='+', default=(1.0, 0.3, 0.1, 0.03, 0.01))
    command.add_argument('--restarts', type=int, default=8, help='random starts')

    command = add('allnc', allnc, 'the layer-peeled model with the terms of AllNC, beside cross-entropy')
    add_groups(command, high=1000.0, points=7)
    add_energies(command)
    command.add_argument('--hycon', type=float, default=1.0, help='weight of HyCon')
    command.add_argument('--p2p', type=float, default=1.0, help='weight of P2P')
    command.add_argument('--eta', type=float, default=0.5, help='weight of the natural branch')
    command.add_argument('--q', type=float, default=0.0, help="exponent of the re-balanced branch's sampler")
    command.add_argument('--dim', type=int, help='feature dimension (default: K)')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one model; 0 on success, 2 on an impossible setting or path, 1 where a solver gave up."""
    args = build_parser().parse_args(argv)
    try:
        for path in (args.json, args.png):  # before the work, not after it
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        solutions, printed, shown, figure = args.run(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    console = Console()
    if not console.is_terminal:  # a file has no width to respect
        console = Console(width=250)
    console.print(table(printed, shown))
    save_json(solutions, args.json)
    plots.save(figure, args.png)
    console.print(f'{args.json}\n{args.png}', highlight=False)
    return 0


if __name__ == '__main__':
    sys.exit(main())
