"""What each switch of AllNC is worth, and what cheap ideas are worth to it and to baselines, on the validation split.

python benchmarks/ablation.py run [PROTOCOL] [--only NAME ...] [--jobs 2]   trains what is not done yet
python benchmarks/ablation.py table [--into FILE]                           prints the tables from the logs

One change at a time, beside the default; beside the former one, with a milder mixture, where the settings of HyCon and
P2P were chosen; and on CIFAR-100 beside the best row there, AllNC with a cosine classifier.
PROTOCOL is cifar10-if100 (default; CIFAR-10-LT with n_max=500, ResNet-20, 160 image-epochs, two views cost two),
cifar10-balanced or cifar100-if100 of protocols.py; the defaults, each without HyCon and P2P, AllNC without mixture and
with a cosine classifier are its runs: train them first.
Accuracies are those of the validation split, from which the defaults are chosen; the geometry is that of the classifier
and of the features of the training images.
"""
import argparse
import time
from functools import partial
from pathlib import Path

import markdown_tables
import numpy as np
import protocols

PROTOCOLS, DEFAULT = ('cifar10-if100', 'cifar10-balanced', 'cifar100-if100'), 'AllNC'
# runs of protocols.py, and what a table calls them
ALPHA_1, COSINE = 'AllNC, MixUp or CutMix at alpha 1', 'AllNC, cosine classifier'
ROWS = {DEFAULT: 'default', 'GBBN alone': 'without HyCon and P2P', ALPHA_1: 'MixUp or CutMix at alpha 1',
        'AllNC without mixture': 'without mixture, all samples for both branches', COSINE: COSINE,
        'GBBN alone, cosine classifier': f'{COSINE}, without HyCon and P2P',
        'GBBN alone, MixUp or CutMix at alpha 1': 'at alpha 1, without HyCon and P2P'}
HEAD, HYCON, P2P, SAMPLER = 'model.head.', 'model.head.hycon.', 'model.head.p2p.', 'train_dataloader.batch_sampler.'
MLP = dict(type='NonLinearNeck', out_channels=128, with_avg_pool=False, with_last_bn=False, norm_cfg=dict(type='BN1d'))
PROJECTOR = {f'{HEAD}projector': dict(MLP, in_channels=64, hid_channels=128), f'{HEAD}proj_channels': 128}
PREDICTOR = {**PROJECTOR, f'{HEAD}predictor': dict(MLP, in_channels=128, hid_channels=64)}
CE = {f'{HEAD}loss_uniform.tau': 0.0, f'{HEAD}loss_rebalanced.tau': 0.0}
NATURAL = {f'{SAMPLER}q': 1.0, f'{SAMPLER}progressive': False}
# half the epochs, as each image is passed twice
TWICE = {'train_dataloader.batch_size': 64, 'train_cfg.max_epochs': 80, 'train_cfg.val_interval': 80,
         'param_scheduler.1.end': 80, 'param_scheduler.1.T_max': 75}
SWITCHES = {  # name: settings that differ from the default
    'without HyCon': {f'{HEAD}hycon': None},
    'without P2P': {f'{HEAD}p2p': None},
    'without GBBN: natural samples, CE': {**NATURAL, **CE},
    're-balanced by the sampler alone': CE,
    're-balanced by the loss alone': NATURAL,
    'sampler q = 0 from the start': {f'{SAMPLER}progressive': False},
    'tau = 1 in both branches': {f'{HEAD}loss_uniform.tau': 1.0, f'{HEAD}loss_rebalanced.tau': 1.0},
    'CE in branch 1': {f'{HEAD}loss_uniform.tau': 0.0},
    'gamma = 1': {'default_hooks.gbbn.gamma': 1.0},
    'gamma = 4': {'default_hooks.gbbn.gamma': 4.0},
    'two classifiers, the second predicts': {f'{HEAD}share_classifier': False},
    'two classifiers, their mean predicts': {f'{HEAD}share_classifier': False, f'{HEAD}predict_head': 'mean'},
    'cosine classifier, HyCon: weight 0.05': {f'{HEAD}temperature': 1 / 30, f'{HYCON}loss_weight': 0.05},
    'without mixture, a half of the batch for each branch': {'model.mixture': None, **TWICE},
    'two mixture views': {'model.num_views': 2, f'{HYCON}positives': ['view', 'mean'], **TWICE},
    'HyCon: InfoNCE': {f'{HYCON}negatives': True},
    'HyCon: InfoNCE, weight 0.05': {f'{HYCON}negatives': True, f'{HYCON}loss_weight': 0.05},
    'HyCon: InfoNCE, temperature 0.5': {f'{HYCON}negatives': True, f'{HYCON}temperature': 0.5},
    'HyCon: InfoNCE, samples of the class too': {f'{HYCON}negatives': True, f'{HYCON}positives': ['class', 'mean']},
    'HyCon: projector': PROJECTOR,
    'HyCon: projector and predictor': PREDICTOR,
    'HyCon: projector and predictor, weight 0.05': {**PREDICTOR, f'{HYCON}loss_weight': 0.05},
    'HyCon: no stop-gradient': {f'{HYCON}stop_gradient': False},
    'HyCon: class-balanced anchors': {f'{HYCON}class_balanced': True},
    'HyCon: means of the batch': {f'{HEAD}momentum': 0.0},
    **{f'HyCon: weight {weight}': {f'{HYCON}loss_weight': weight} for weight in (0.05, 1.0, 2.0, 5.0)},
    **{f'P2P: weight {weight}': {f'{P2P}classifier_weight': weight} for weight in (0.02, 0.1, 0.5, 1.0)},
    'P2P: means as well, 0.02': {f'{P2P}means_weight': 0.02},
    'P2P: means as well, of clean samples, 0.1': {f'{P2P}means_weight': 0.1, 'model.clean_means': True, **TWICE},
    'P2P: cross pairs as well, 0.02': {f'{P2P}cross_weight': 0.02},
    'P2P: hinge': {f'{P2P}target': 'hinge'},
}
MIXTURES = {  # settings that differ from ALPHA_1
    'MixUp alone': {'model.mixture.methods': ['mixup']},
    'MixUp alone, re-balanced by the loss alone': {'model.mixture.methods': ['mixup'], **NATURAL},
    'CutMix alone': {'model.mixture.methods': ['cutmix']},
    'MixUp twice as often as CutMix': {'model.mixture.methods': ['mixup', 'mixup', 'cutmix']},
}
P2P_01 = {f'P2P 0.1, {name}': {**SWITCHES['P2P: weight 0.1'], **SWITCHES[name]} for name in (
    'without HyCon', 'without GBBN: natural samples, CE', 're-balanced by the sampler alone',
    're-balanced by the loss alone', 'HyCon: InfoNCE', 'HyCon: projector and predictor, weight 0.05',
    *(f'HyCon: weight {weight}' for weight in (0.05, 1.0, 2.0, 5.0)))}
ALPHA_1_SWITCHES = {f'at alpha 1, {name}': settings for name, settings in {**SWITCHES, **MIXTURES, **P2P_01}.items()}
CLASS_MEANS = 'nearest class mean instead of the classifier'
COSINE_SWITCHES = {f'{COSINE}, {name}': changes for name, changes in {  # settings that differ from COSINE
    'without HyCon': {f'{HEAD}hycon': None},
    'without P2P': {f'{HEAD}p2p': None},
    'without GBBN: CE': CE,
    'tau = 1 in both branches': {f'{HEAD}loss_uniform.tau': 1.0, f'{HEAD}loss_rebalanced.tau': 1.0},
    're-balanced by the sampler too': {f'{SAMPLER}q': 0.0, f'{SAMPLER}progressive': True},
    'linear classifier': {f'{HEAD}temperature': None},
    'HyCon: projector and predictor': PREDICTOR,
    'HyCon: weight 0.2': {f'{HYCON}loss_weight': 0.2},
    'P2P: means as well, 0.1': {f'{P2P}means_weight': 0.1},
    'P2P: weight 0.05': {f'{P2P}classifier_weight': 0.05},
    'P2P: weight 2.0': {f'{P2P}classifier_weight': 2.0},
    'P2P: hinge': {f'{P2P}target': 'hinge'},
}.items()}
# whose differences are not from the default, by how the rows begin
BESIDE = {'at alpha 1, P2P 0.1, ': 'at alpha 1, P2P: weight 0.1', 'at alpha 1, ': ALPHA_1, f'{COSINE}, ': COSINE}
IDEAS = {  # name: settings, for each of IDEA_METHODS
    CLASS_MEANS: {},
    'moving average of the weights': {
        'custom_hooks': [dict(type='EMAHook', momentum=0.005, update_buffers=True)]},
    'weight decay 5e-4': {'optim_wrapper.optimizer.weight_decay': 5e-4},
    'weight decay 5e-3': {'optim_wrapper.optimizer.weight_decay': 5e-3},
    'MaxNorm 1': {'custom_hooks': [dict(type='MaxNormHook', max_norm=1.0)]},
    'AutoAugment and cutout': {},
}
IDEA_METHODS = ('CE', 'LA + mixture', 'LA + mixup', ALPHA_1, DEFAULT)
BY_METHOD = {DEFAULT: SWITCHES, ALPHA_1: ALPHA_1_SWITCHES, COSINE: COSINE_SWITCHES}
CHANGES = {**SWITCHES, **ALPHA_1_SWITCHES, **COSINE_SWITCHES, **IDEAS}
JOBS = {**{name: (method, name) for method, switches in BY_METHOD.items() for name in switches},
        **{f'{idea}: {method}': (method, idea) for idea in IDEAS for method in IDEA_METHODS}}
GEOMETRY = ('nc1', 'std_cos_means', 'std_cos_classifier', 'tail_cosine', 'self_duality')


def results(protocol):
    """File of this study's finished runs, and those runs by (name, seed)."""
    path = Path(__file__).resolve().parent / 'results' / f'ablation_{protocol}.jsonl'
    return path, protocols.finished(path)


def config_of(method):
    return protocols.ROOT / 'configs' / protocols.METHODS[method].format(protocols.MINI)


def changes(name):
    """Settings of a job that differ from its method."""
    from mmengine.config import Config
    method, change = JOBS[name]
    options = dict(CHANGES[change])
    cfg = Config.fromfile(config_of(method))
    *transforms, pack = cfg.train_dataloader.dataset.pipeline
    if options.get('model.num_views') == 2:  # the pipeline up to PackInputs, once for each view
        views = dict(type='MultiView', num_views=2, transforms=[transforms])
        options['train_dataloader.dataset.pipeline'] = [views, pack]
    if change == 'AutoAugment and cutout':
        views = Config.fromfile(protocols.ROOT / 'configs/_base_/datasets/cifar_views.py')
        options['train_dataloader.dataset.pipeline'] = [*views.strong_view, pack]
    if 'custom_hooks' in options:
        options['custom_hooks'] = [*cfg.get('custom_hooks', []), *options['custom_hooks']]
    return options


def jobs_of(protocol):
    """Names of a protocol's jobs: COSINE is for CIFAR-100, ideas are tried on the first."""
    ideas = [name for name, (_, change) in JOBS.items() if change in IDEAS and protocol == PROTOCOLS[0]]
    return [*SWITCHES, *ALPHA_1_SWITCHES, *(COSINE_SWITCHES if protocol == 'cifar100-if100' else ideas)]


def job_settings(args, protocol, name, seed):
    """Config of a job's method, and its settings to override."""
    config = config_of(JOBS[name][0])
    return config, protocols.settings(args, protocol, seed, config, changes(name))


def job_fingerprint(args, protocol, name, seed):
    return protocols.fingerprint_of(*job_settings(args, protocol, name, seed))


def train_job(args, protocol, name, seed):
    """Train a method with one change; in a worker."""
    (method, change), settings = JOBS[name], job_fingerprint(args, protocol, name, seed)
    if change == CLASS_MEANS:
        result = class_means(*protocols.finished_run(args, protocol, method, seed))
    else:
        work_dir = protocols.folder(args, f'ablation_{protocol}', name, seed)
        with protocols.alone(work_dir):
            result = protocols.train(*job_settings(args, protocol, name, seed), work_dir, args)
    return dict(settings=settings, **result)


def class_means(config, checkpoint):
    """A finished run with the nearest class mean for its classifier; no shift tau, which it has no use for."""
    start = time.time()
    from allnc_mm.visualization.class_mean_classifier import evaluate_class_means
    found = {}
    for split in ('val', 'test'):
        result = evaluate_class_means(config, checkpoint, cfg_options={'test_dataloader.dataset.split': split})[0]
        found[split] = {group: round(result['ncc'][group], 2) for group in ('overall', 'many', 'medium', 'few')}
    return dict(test=found['test'], tuned=dict(running=dict(val=found['val'], val_tau0=found['val'])),
                minutes=round((time.time() - start) / 60, 1))


class Table:
    """Cells of the tables from the finished runs."""

    def __init__(self, protocol='cifar10-if100'):
        self.found = protocols.results(protocol)[1] | results(protocol)[1]

    def seeds(self, name):
        return sorted(seed for other, seed in self.found if other == name)

    def value(self, name, seed, group, tau=''):
        """Accuracy on validation, with the BatchNorm statistics that are better there over all seeds of the row."""
        kinds = self.found[name, seed]['tuned']
        kind = max(kinds, key=lambda k: np.mean([self.found[name, s]['tuned'][k]['val']['overall']
                                                 for s in self.seeds(name)]))
        return kinds[kind][f'val{tau}'][group]

    def accuracy(self, name, group, tau=''):
        return f'{np.mean([self.value(name, seed, group, tau) for seed in self.seeds(name)]):.1f}'

    def measure(self, name, seed, measure):
        """A measure of the training images; NaN in the records from before it was kept."""
        return self.found[name, seed]['test'].get(measure, np.nan)

    def mean(self, name, measure):
        values = [self.measure(name, seed, measure) for seed in self.seeds(name)]
        return '' if np.isnan(values).all() else f'{np.nanmean(values):.3f}'

    def paired(self, name, default, function, digits=1):
        """Mean and standard deviation of the differences of ``function(name, seed)``; signed, empty without a pair."""
        found = [function(name, seed) - function(default, seed)
                 for seed in self.seeds(name) if seed in self.seeds(default)]
        found = [value for value in found if not np.isnan(value)]
        if not found:
            return ''
        return ('+' if np.mean(found) >= 0 else '') + protocols.cell(found, digits)

    def difference(self, name, default, group, tau=''):
        return self.paired(name, default, lambda name, seed: self.value(name, seed, group, tau))

    def plain_difference(self, name, default, group):
        """At tau 0, with the BatchNorm statistics of the training."""
        return self.paired(name, default, lambda *run: self.found[run]['tuned']['running']['val_tau0'][group])


def switches_table(protocol):
    """What each switch changes, as Markdown: accuracy on validation, and geometry."""
    cells = Table(protocol)
    split = 'every other test image' if protocol == 'cifar100-if100' else 'validation split'  # it has none
    beside = ', '.join(f'those of rows `{prefix}...` from the row `{row}`' for prefix, row in BESIDE.items()
                       if any(name.startswith(prefix) for name, _ in cells.found))
    lines = [f'AllNC on `{protocol}`: {split}, last epoch, post-hoc tau tuned there; differences from the default '
             'paired by seed' + (f', {beside}' if beside else ''), '',
             '| switch | seeds | overall | few | overall at tau 0 | ' + ' | '.join(GEOMETRY) + ' |',
             '| --- ' * (5 + len(GEOMETRY)) + '|']
    for name in (*ROWS, *SWITCHES, *ALPHA_1_SWITCHES, *COSINE_SWITCHES):
        label = ROWS.get(name, name)
        default = next((row for prefix, row in BESIDE.items() if label.startswith(prefix)), DEFAULT)
        seeds = set(cells.seeds(name)) & set(cells.seeds(default))
        if not seeds:
            continue
        columns = (('overall', ''), ('few', ''), ('overall', '_tau0'))
        if name == DEFAULT:
            row = [cells.accuracy(name, *column) for column in columns] + [cells.mean(name, m) for m in GEOMETRY]
        else:
            row = [cells.difference(name, default, *column) for column in columns]
            row += [cells.paired(name, default, lambda n, seed, m=m: cells.measure(n, seed, m), 3) for m in GEOMETRY]
        lines.append(f'| {label} | {len(seeds)} | ' + ' | '.join(row) + ' |')
    return '\n'.join(lines)


def ideas_table():
    """What each idea changes for each method, as Markdown: accuracy on validation."""
    cells = Table()
    lines = ['`cifar10-if100`: validation split, last epoch, post-hoc tau of validation, overall / few (seeds); '
             'differences from the method as it is, paired by seed (class means, which have no shift, from tau 0)', '',
             '| idea | ' + ' | '.join(IDEA_METHODS) + ' |', '| --- ' * (1 + len(IDEA_METHODS)) + '|']
    lines.append('| none | ' + ' | '.join(
        f'{cells.accuracy(m, "overall")} / {cells.accuracy(m, "few")} ({len(cells.seeds(m))})' for m in IDEA_METHODS)
        + ' |')
    for idea in IDEAS:
        row = []
        for method in IDEA_METHODS:
            seeds = len(cells.seeds(name := f'{idea}: {method}'))
            difference = cells.plain_difference if idea == CLASS_MEANS else cells.difference
            both = ' / '.join(difference(name, method, group) for group in ('overall', 'few'))
            row.append(f'{both} ({seeds})' if seeds else '')
        if any(row):
            lines.append(f'| {idea} | ' + ' | '.join(row) + ' |')
    return '\n'.join(lines)


TABLES = {**{f'ablation {protocol}': partial(switches_table, protocol) for protocol in PROTOCOLS},
          'ideas': ideas_table}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run')
    run.add_argument('protocol', choices=PROTOCOLS, nargs='?', default=PROTOCOLS[0])
    run.add_argument('--only', nargs='+', choices=JOBS, metavar='NAME', help='default: all of the protocol')
    protocols.add_run_arguments(run)
    show = commands.add_parser('table')
    show.add_argument('--into', metavar='FILE', help='Markdown file with the marks')
    args = parser.parse_args()
    if args.command == 'run':
        path, done = results(args.protocol)
        protocols.work_on([(path, dict(name=name, seed=seed), (args.protocol, name, seed)) for seed in args.seeds
                           for name in args.only or jobs_of(args.protocol) if protocols.is_missing(
                               done, name, seed, job_fingerprint(args, args.protocol, name, seed))], train_job, args)
        return
    for mark, table in TABLES.items():
        if args.into:
            markdown_tables.insert(args.into, mark, table())
        else:
            print(table(), end='\n\n')


if __name__ == '__main__':
    main()
