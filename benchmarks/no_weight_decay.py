"""A real network that is trained without weight decay collapses: the curves of its geometry, beside weight decay.

python benchmarks/no_weight_decay.py run DATA [--decays 0 0.5]      trains what is not done yet; DATA: digits, cifar10
python benchmarks/no_weight_decay.py plot [--out FILE]               draws results/no_weight_decay.jsonl
python benchmarks/no_weight_decay.py table [--epoch 180]             first and last values (or those of an epoch)

The empirical claim of "An unconstrained layer-peeled perspective on neural collapse" (arXiv 2110.02796), on balanced
images without augmentation, with AdamW at a constant learning rate. A run that was killed resumes from its last
checkpoint; a finished one is a line of JSON. The measures are those of NeuralCollapseHook on the training images.
"""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / 'results' / 'no_weight_decay.jsonl'
PICTURE = ROOT / 'docs' / 'images' / 'no_weight_decay.png'
DATA = {  # name: config, title
    'digits': ('ce/resnet20_digits_no-decay.py', 'digits, 10 x 100 images, ResNet-20'),
    'cifar10': ('ce/resnet20_cifar10-mini_no-decay.py', 'CIFAR-10, 10 x 500 images, ResNet-20'),
}
PANELS = {  # measure: title
    'nc1': 'NC1: spread within classes',
    'nc2_equiangularity_means': 'NC2: std of cosines of means',
    'nc2_equiangularity_classifier': 'NC2: std of cosines of classifier',
    'nc3': 'NC3: classifier against means',
}
# Okabe and Ito's palette, with dashes for those who print in grey
STYLES = [('#0072B2', '-'), ('#D55E00', '--'), ('#009E73', ':'), ('#CC79A7', '-.')]


def records():
    """Finished runs by (data, weight decay, seed)."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {(r['data'], r['weight_decay'], r['seed']): r for r in map(json.loads, lines)}


def curves(work_dir):
    """Epochs and measures from the scalars that a run and its resumptions logged."""
    from allnc_mm.visualization.runs import read_curves
    points, loss, accuracy = {}, {}, {}
    for scalars in read_curves(str(work_dir)):
        if 'neural_collapse_train/nc1' in scalars:
            points[scalars['step']] = {key.split('/')[1]: value for key, value in scalars.items() if '/' in key}
        elif 'loss' in scalars:
            loss[scalars['epoch']] = scalars['loss']
        elif 'long_tail/overall' in scalars:
            accuracy[scalars['step']] = scalars['long_tail/overall']
    epochs = sorted(points)
    names = (*PANELS, 'nc4_disagreement')
    return dict(epoch=epochs, loss=[loss.get(epoch) for epoch in epochs], test_accuracy=accuracy[max(accuracy)],
                **{name: [float(f'{points[epoch][name]:.6g}') for epoch in epochs] for name in names})


def train(data, decay, args):
    """Train one run in a process of its own and append its record."""
    config = DATA[data][0]
    work_dir = Path(args.work_dirs) / f'{data}_decay{decay:g}_seed{args.seed}'
    options = {'randomness.seed': args.seed, 'optim_wrapper.optimizer.weight_decay': decay}
    if args.data_root:
        for loader in ('train', 'val', 'test'):
            options[f'{loader}_dataloader.dataset.data_root'] = args.data_root
    work_dir.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with open(work_dir / 'driver.log', 'a') as log:
        code = subprocess.run(
            [sys.executable, str(ROOT / 'tools/train.py'), str(ROOT / 'configs' / config), '--work-dir', str(work_dir),
             '--resume', '--cfg-options', *(f'{key}={value}' for key, value in options.items())],
            stdout=log, stderr=log).returncode
    if code:
        raise SystemExit(f'{data}, weight decay {decay:g}: failed, see {work_dir}/driver.log')
    record = dict(data=data, weight_decay=decay, seed=args.seed, config=config,
                  minutes=round((time.time() - start) / 60, 1), **curves(work_dir))
    with open(RESULTS, 'a') as file:
        file.write(json.dumps(record) + '\n')
    print(f'{data}, weight decay {decay:g}: NC1 {record["nc1"][0]:.3g} -> {record["nc1"][-1]:.3g}, '
          f'{record["minutes"]} min', flush=True)


def plot(out):
    """One row of panels for each data set."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
    found = records()
    if not found:
        raise SystemExit(f'{RESULTS} is empty; train first: python {Path(__file__).name} run digits')
    rows = [name for name in DATA if any(key[0] == name for key in found)]
    figure, axes = plt.subplots(len(rows), len(PANELS), figsize=(13, 3.1 * len(rows) + 0.3), squeeze=False,
                                layout='constrained')
    for row, data in zip(axes, rows):
        for axis, (name, title) in zip(row, PANELS.items()):
            for (color, dash), (key, record) in zip(STYLES, sorted(item for item in found.items()
                                                                   if item[0][0] == data)):
                axis.semilogy(record['epoch'], record[name], color=color, linestyle=dash, linewidth=1.8,
                              label='no weight decay' if not key[1] else f'weight decay {key[1]:g}')
            low, high = axis.get_ylim()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6) if high < 8 * low else
                                                    (1, 2, 5) if high < 200 * low else (1, )))
            axis.yaxis.set_major_formatter(FormatStrFormatter('%g'))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.spines[['top', 'right']].set_visible(False)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel('epoch')
            axis.grid(alpha=0.3)
        row[0].set_ylabel(DATA[data][1], fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=4, frameon=False)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


def table(epoch=None):
    """Measures before the training and after an epoch, by default the last."""
    names = ('nc1', 'nc2_equiangularity_means', 'nc2_equiangularity_classifier', 'nc3', 'nc4_disagreement')
    titles = ('NC1', 'NC2, means', 'NC2, classifier', 'NC3', 'NC4: disagreement')
    lines = ['| data | weight decay | epochs | loss | ' + ' | '.join(titles) + ' | test accuracy |',
             '| --- ' * (len(names) + 5) + '|']
    for (data, decay, _), record in sorted(records().items()):
        at = record['epoch'].index(epoch) if epoch else -1
        cells = [f'{record[name][0]:.2g} -> {record[name][at]:.2g}' for name in names]
        accuracy = '' if epoch else f'{record["test_accuracy"]:.1f}'
        lines.append(f'| {data} | {decay:g} | {record["epoch"][at]} | {record["loss"][at]:.2g} | ' + ' | '.join(cells)
                     + f' | {accuracy} |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run')
    run.add_argument('data', choices=DATA)
    run.add_argument('--decays', nargs='+', type=float, default=[0.0, 0.5])
    run.add_argument('--seed', type=int, default=0)
    run.add_argument('--data-root', help='default: that of the config')
    run.add_argument('--work-dirs', default='work_dirs/no_weight_decay')
    draw = commands.add_parser('plot')
    draw.add_argument('--out', default=str(PICTURE))
    commands.add_parser('table').add_argument('--epoch', type=int, help='one that was measured: every fifth')
    args = parser.parse_args()
    if args.command == 'run':
        for decay in args.decays:
            if (args.data, decay, args.seed) not in records():
                train(args.data, decay, args)
    elif args.command == 'plot':
        plot(args.out)
    else:
        print(table(args.epoch))


if __name__ == '__main__':
    main()
