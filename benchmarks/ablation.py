"""What each switch of AllNC is worth: one at a time, beside the default, on the validation split.

python benchmarks/ablation.py run [--only NAME ...] [--jobs 2]   trains what is not done yet
python benchmarks/ablation.py table [--into FILE]                prints the table from the logs

The protocol is cifar10-if100 of protocols.py (CIFAR-10-LT with n_max=500, ResNet-20, 160 image-epochs, two views cost
two), and the default, as well as AllNC without HyCon and P2P, are its runs 'AllNC' and 'GBBN alone': train them first.
Accuracies are those of the validation split, from which the defaults are chosen; the geometry is that of the features
of the test split and of the classifier, no accuracy of which enters.
"""
import argparse
from pathlib import Path

import markdown_tables
import numpy as np
import protocols

RESULTS = Path(__file__).resolve().parent / 'results' / 'ablation.jsonl'
PROTOCOL, DEFAULT, BARE = 'cifar10-if100', 'AllNC', 'GBBN alone'
HEAD, HYCON, P2P, SAMPLER = 'model.head.', 'model.head.hycon.', 'model.head.p2p.', 'train_dataloader.batch_sampler.'
NO_PROJECTOR = {f'{HEAD}projector': None, f'{HEAD}predictor': None, f'{HEAD}proj_channels': None}
CE = {f'{HEAD}loss_uniform.tau': 0.0, f'{HEAD}loss_rebalanced.tau': 0.0}
NATURAL = {f'{SAMPLER}q': 1.0, f'{SAMPLER}progressive': False}
# half the epochs, as each image is passed twice
TWICE = {'train_dataloader.batch_size': 64, 'train_cfg.max_epochs': 80, 'train_cfg.val_interval': 80,
         'param_scheduler.1.end': 80, 'param_scheduler.1.T_max': 75}
SWITCHES = {  # name: settings that differ from the default
    'without HyCon': {f'{HEAD}hycon': None, **NO_PROJECTOR},
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
    'clean samples, no mixture': {'model.mixture': None, **TWICE},
    'two mixture views': {'model.num_views': 2, f'{HYCON}positives': ['view', 'mean'], **TWICE},
    'HyCon: InfoNCE': {f'{HYCON}negatives': True},
    'HyCon: InfoNCE, temperature 0.5': {f'{HYCON}negatives': True, f'{HYCON}temperature': 0.5},
    'HyCon: InfoNCE, samples of the class too': {f'{HYCON}negatives': True, f'{HYCON}positives': ['class', 'mean']},
    'HyCon: raw features': NO_PROJECTOR,
    'HyCon: no predictor': {f'{HEAD}predictor': None},
    'HyCon: no stop-gradient': {f'{HYCON}stop_gradient': False},
    'HyCon: class-balanced anchors': {f'{HYCON}class_balanced': True},
    'HyCon: means of the batch': {f'{HEAD}momentum': 0.0},
    'HyCon: weight 0.5': {f'{HYCON}loss_weight': 0.5},
    'P2P: weight 1': {f'{P2P}classifier_weight': 1.0},
    'P2P: means as well, 0.02': {f'{P2P}means_weight': 0.02},
    'P2P: cross pairs as well, 0.02': {f'{P2P}cross_weight': 0.02},
    'P2P: hinge': {f'{P2P}target': 'hinge'},
}
GEOMETRY = ('std_cos_means', 'std_cos_classifier', 'tail_cosine', 'self_duality')


def records():
    """Finished runs by (name, seed), those of the protocol among them."""
    own = protocols.finished(RESULTS)
    return own, {key: r for key, r in protocols.results(PROTOCOL)[1].items() if key[0] in (DEFAULT, BARE)} | own


def train_job(args, name, seed):
    """Train the default with one switch; in a worker."""
    options = protocols.settings(args, PROTOCOL, seed) | SWITCHES[name]
    if options.get('model.num_views') == 2:
        # the pipeline up to PackInputs, once for each view
        from mmengine.config import Config
        *transforms, pack = Config.fromfile(default_config()).train_dataloader.dataset.pipeline
        views = dict(type='MultiView', num_views=2, transforms=[transforms])
        options['train_dataloader.dataset.pipeline'] = [views, pack]
    return protocols.train(default_config(), options, protocols.folder(args, 'ablation', name, seed),
                           args.device_augmentation)


def default_config():
    return protocols.ROOT / 'configs' / protocols.METHODS[DEFAULT].format(protocols.PROTOCOLS[PROTOCOL][0])


def table():
    """Difference from the default, paired by seed, as Markdown: accuracy on validation, and geometry."""
    found = records()[1]
    seeds = {name: [seed for other, seed in found if other == name] for name in (DEFAULT, BARE, *SWITCHES)}

    def value(name, seed, group, tau=''):
        return found[name, seed]['tuned']['running'][f'val{tau}'][group]

    def cell(name, read, digits=1):
        values = [read(name, seed) for seed in seeds[name]]
        return f'{np.mean(values):.{digits}f}'

    def difference(name, group):
        paired = [value(name, seed, group) - value(DEFAULT, seed, group) for seed in seeds[name]
                  if seed in seeds[DEFAULT]]
        spread = f' ± {np.std(paired, ddof=1):.1f}' if len(paired) > 1 else ''
        return f'{np.mean(paired):+.1f}{spread}'

    lines = [f'`{PROTOCOL}`, validation split, last epoch, post-hoc tau of validation; differences paired by seed', '',
             '| switch | seeds | overall | few | overall at tau 0 | ' + ' | '.join(GEOMETRY) + ' |',
             '| --- ' * (5 + len(GEOMETRY)) + '|']
    titles = {DEFAULT: 'default', BARE: 'without HyCon and P2P'}
    for name in (name for name in seeds if seeds[name]):
        accuracy = [cell(name, lambda n, s, g=g: value(n, s, g)) if name == DEFAULT else difference(name, g)
                    for g in ('overall', 'few')]
        accuracy.append(cell(name, lambda n, s: value(n, s, 'overall', '_tau0')))
        geometry = [cell(name, lambda n, s, m=m: found[n, s]['test'][m], 3) for m in GEOMETRY]
        lines.append(f'| {titles.get(name, name)} | {len(seeds[name])} | ' + ' | '.join(accuracy + geometry) + ' |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run')
    run.add_argument('--only', nargs='+', choices=SWITCHES, metavar='NAME', help='default: all switches')
    protocols.add_run_arguments(run)
    show = commands.add_parser('table')
    show.add_argument('--into', metavar='FILE', help='Markdown file with the marks')
    args = parser.parse_args()
    if args.command == 'run':
        done = records()[0]
        jobs = [(name, seed) for seed in args.seeds for name in args.only or SWITCHES if (name, seed) not in done]
        protocols.work_on([(RESULTS, dict(name=name, seed=seed, options=SWITCHES[name]), (name, seed))
                           for name, seed in jobs], train_job, args)
    elif args.into:
        markdown_tables.insert(args.into, 'ablation', table())
    else:
        print(table())


if __name__ == '__main__':
    main()
