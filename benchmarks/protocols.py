"""Small protocols that two CPU cores can carry: every method, several seeds, equal image budget, last epoch.

python benchmarks/protocols.py run PROTOCOL [--only NAME ...] [--jobs 2]     trains what is not done yet
python benchmarks/protocols.py table PROTOCOL [--into FILE]                  prints the table from the logs; PROTOCOL
                                                                             summary: one line for each method
python benchmarks/protocols.py own                                           writes the own columns of configs/

PROTOCOL is digits (scikit-learn's digits, imbalance factor 50, ResNet-20, 60 image-epochs); cifar10-if100 or
cifar10-if50 (CIFAR-10-LT with n_max=500, ResNet-20, 160 image-epochs); cifar10-balanced (124 images of each class, as
many in all as at factor 100); or cifar100-if100 (the published set of 10,847 images, 30 image-epochs). A run that was
killed resumes from its last checkpoint; a finished one is a line in results/PROTOCOL.jsonl, of which the last counts.
Choices are made on the validation split alone, cut from the training pool; CIFAR-100 has none, every other of its test
images serves instead, and accuracies with the post-hoc shift are those of the rest. The table is printed from that
file, and each line has the fingerprint of its settings: a run whose config has changed since counts as not done and
starts anew, so numbers and configs cannot drift.
"""
import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import markdown_tables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MINI, DIGITS = 'resnet20_cifar10-lt-mini-if100', 'resnet20_digits-lt'
METHODS = {  # name: config under configs/, with {} for the protocol's stem
    'CE': 'ce/{}.py',
    'LA': 'la/{}.py',
    'CE + mixture': 'ce/{}_mixture.py',
    'LA + mixture': 'la/{}_mixture.py',
    'LA + mixup': 'la/{}_mixup.py',
    'LA + mixup, alpha 4': 'la/{}_mixup_alpha4.py',
    'LA, cosine classifier': 'la/{}_cosine.py',
    'ETF + DR': 'etf/{}.py',
    'ETF + DR + mixture': 'etf/{}_mixture.py',
    'BBN': 'bbn/{}.py',
    'mixup': 'mixup/{}.py',
    'mixup, alpha 4': 'mixup/{}_alpha4.py',
    'CB-CE': 'cb/{}.py',
    'CB-CE + mixture': 'cb/{}_mixture.py',
    'CE-DRW': 'cb/{}_drw.py',
    'CE-DRW + mixture': 'cb/{}_drw_mixture.py',
    'focal': 'focal/{}.py',
    'focal + mixup': 'focal/{}_mixup.py',
    'LDAM-DRW': 'ldam/{}.py',
    'LDAM-DRW + mixture': 'ldam/{}_mixture.py',
    'cRT': 'crt/{}.py',
    'cRT + mixture': 'crt/{}.py',
    'LWS': 'lws/{}.py',
    'LWS + mixture': 'lws/{}.py',
    'tau-norm': 'ce/{}.py',
    'tau-norm + mixture': 'ce/{}_mixture.py',
    'SupCon': 'supcon/{}.py',
    'SupCon + mixup': 'supcon/{}_mixup.py',
    'BCL': 'bcl/{}.py',
    'BCL + mixup': 'bcl/{}_mixup.py',
    'ProCo': 'proco/{}.py',
    'ProCo + mixup': 'proco/{}_mixup.py',
    'GLMC': 'glmc/{}.py',
    'GBBN alone, MixUp or CutMix at alpha 1': 'allnc/{}_alpha1_gbbn.py',
    'GBBN alone': 'allnc/{}_gbbn.py',
    'GBBN alone, cosine classifier': 'allnc/{}_cosine_gbbn.py',
    'AllNC without mixture': 'allnc/{}_clean.py',
    'AllNC, cosine classifier': 'allnc/{}_cosine.py',
    'AllNC, MixUp or CutMix at alpha 1': 'allnc/{}_alpha1.py',
    'AllNC': 'allnc/{}.py',
}
# a run of the same seed, with BatchNorm statistics of unmixed images; settings that take its checkpoint
SECOND_STAGE = {f'{name}{views}': (f'CE{views}', keys)
                for views in ('', ' + mixture')
                for name, keys in {'cRT': ['model.backbone.init_cfg.checkpoint'],
                                   'LWS': ['model.backbone.init_cfg.checkpoint', 'model.head.init_cfg.checkpoint'],
                                   'tau-norm': []}.items()}
PROTOCOLS = {  # name: (stem, overrides of the data sets)
    'digits': (DIGITS, dict(val_per_class=24)),
    'cifar10-if100': (MINI, dict(imb_factor=100)),
    'cifar10-if50': (MINI, dict(imb_factor=50)),
    'cifar10-balanced': (MINI, dict(imb_factor=1, n_max=124, val_per_class=376)),
    'cifar100-if100': (MINI, dict(type='CIFAR100LT', data_root='data/cifar100', imb_factor=100, val_per_class=0)),
}
SKIPPED = {
    'digits': ('tau-norm', 'tau-norm + mixture'),  # make train's job: a few methods
    'cifar10-balanced': ('LA', 'LA + mixture', 'LA + mixup', 'LA + mixup, alpha 4', 'LA, cosine classifier', 'CB-CE',
                         'CB-CE + mixture', 'CE-DRW', 'CE-DRW + mixture', *SECOND_STAGE),  # balanced: as CE
}
# settings of a config that decide a trained network; and those among them that depend on the machine, or only tell
TRAINING = ('model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler',
            'default_hooks', 'custom_hooks')
INCIDENTAL = ('data_root', 'checkpoint', 'num_workers', 'persistent_workers', 'pin_memory', 'val_begin', 'val_interval',
              'logger')
LEADERS = {'cifar100-if100': 'AllNC, cosine classifier'}  # whose lead a table shows, where it is not AllNC as it is
COLUMNS = ('overall', 'many', 'medium', 'few', 'worst_class', 'ece', 'std_cos_means', 'std_cos_classifier',
           'tail_cosine')


def finished(path):
    """The finished runs of a file, by (name, seed)."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r['name'], r['seed']): r for r in map(json.loads, lines)}


def results(protocol):
    """File of the finished runs, and those runs."""
    path = HERE / 'results' / f'{protocol}.jsonl'
    return path, finished(path)


def start_worker():
    """Prepare a process that trains one job after the other."""
    os.environ.update(OMP_NUM_THREADS='1', TORCH_FORCE_WEIGHTS_ONLY_LOAD='1')
    import torch
    torch.set_num_threads(1)


def fingerprint(cfg):
    """Twelve hexadecimal digits of the settings of a config that decide the trained network.

    Left out are the seed, paths, what the machine decides, unset keys, and whether the samples are augmented one by
    one or as whole batches (draws of one distribution).
    """
    def decisive(node):
        if isinstance(node, dict):
            found = {key: decisive(value) for key, value in node.items() if key not in INCIDENTAL}
            return {key: value for key, value in found.items() if value not in (None, [])}
        if isinstance(node, (list, tuple)):
            return [decisive(item) for item in node if not (isinstance(item, dict)
                                                            and item.get('type') == 'DeviceAugmentationHook')]
        return node

    settings = cfg.to_dict()
    settings = decisive({key: settings.get(key) for key in TRAINING})
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def fingerprint_of(config, options):
    """That of a config with settings to override, by dotted names."""
    from mmengine.config import Config
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    return fingerprint(cfg)


@contextmanager
def alone(work_dir):
    """Keep other processes off the folder of a run, by locking the file FOLDER.lock beside it.

    Raises:
        ValueError: Another process trains this run.
    """
    from filelock import FileLock, Timeout
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f'{work_dir}.lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f'{work_dir} is being trained by another process; let that finish.') from None
    try:
        yield
    finally:
        lock.release()


def train(config, options, work_dir, args):
    """Train a config, or what is left of it, and evaluate its last checkpoint, in this process.

    Args:
        config (str): Path of the config.
        options (dict): Settings to override, by dotted names.
        work_dir (Path): Folder of the run; its driver.log gets all output. What a run of other settings left is
            removed. Other processes are to be kept off it: :func:`alone`.
        args (Namespace): Has ``device_augmentation``: augment whole batches on the device; and ``best_epoch``: also
            evaluate about ten epochs of the second half on the test split.

    Returns:
        dict: That of :func:`evaluate`, the ``minutes`` (``None`` if resumed), and, if asked for, the
        ``best_epoch``'s accuracy on the test split.
    """
    import allnc_mm  # noqa: F401 isort: skip
    from mmengine.config import Config

    from allnc_mm.engine.launch import build_runner, latest_checkpoint, load_config
    from allnc_mm.visualization.runs import read_curves
    before = work_dir / Path(config).name  # mmengine's copy
    if before.exists() and fingerprint(Config.fromfile(before)) != fingerprint_of(config, options):
        shutil.rmtree(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with open(work_dir / 'driver.log', 'a') as log, redirect_stdout(log), redirect_stderr(log):
        cfg = load_config(argparse.Namespace(
            config=str(config), cfg_options=options, work_dir=str(work_dir), launcher='none', local_rank=0,
            no_pin_memory=True, no_persistent_workers=True))
        if args.best_epoch:
            cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
            cfg.train_cfg.val_interval = -(-cfg.train_cfg.max_epochs // 20)
            cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs // 2 + 1
        else:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.experiment_name = f'{work_dir.parent.name}_{work_dir.name}_{start}'
        cfg.train_dataloader.num_workers = cfg.test_dataloader.num_workers = 0
        if args.device_augmentation:
            cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='DeviceAugmentationHook')]
        checkpoint = latest_checkpoint(str(work_dir))
        if checkpoint:
            cfg.resume, cfg.load_from = True, checkpoint
        build_runner(cfg).train()
        minutes = None if checkpoint else round((time.time() - start) / 60, 1)
        result = dict(minutes=minutes, **evaluate(work_dir))
    if args.best_epoch:
        seen = [entry[key] for entry in read_curves(str(work_dir)) if (key := 'long_tail/overall') in entry]
        if seen:  # none in a run that was already trained
            result['best_epoch'] = max(*seen, result['test']['overall'])
    return result


def folder(args, protocol, name, seed):
    """Folder of a run."""
    return Path(args.work_dirs) / protocol / (''.join(c if c.isalnum() else '_' for c in name) + f'_seed{seed}')


def settings(args, protocol, seed, config, changes=None):
    """What the protocol and the seed set in a config, with ``changes`` of its settings."""
    overrides = dict(PROTOCOLS[protocol][1], **(dict(data_root=args.data_root) if args.data_root else {}))
    changes = changes or {}
    return {**changes, 'randomness.seed': seed,
            **(cifar100_settings(config, changes) if protocol == 'cifar100-if100' else {}),
            **{f'{loader}_dataloader.dataset.{key}': value for key, value in overrides.items()
               for loader in ('train', 'val', 'test')}}


def cifar100_settings(config, changes):
    """What brings a mini config of CIFAR-10 to CIFAR-100: its pixels and classes, 30 epochs for each 160."""
    from mmengine.config import Config
    data = Config.fromfile(ROOT / 'configs/_base_/datasets/cifar100-lt.py')
    out = {f'data_preprocessor.{key}': data.data_preprocessor[key] for key in ('mean', 'std')}
    out.update({f'{loop}_evaluator.groups': data.val_evaluator.groups for loop in ('val', 'test')})

    def walk(node, path):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            here = f'{path}.{key}' if path else f'{key}'
            if isinstance(value, (dict, list)):
                walk(value, here)
            elif key == 'num_classes':
                out[here] = 100
            elif epochs > 10 and (key in ('max_epochs', 'val_interval', 'begin', 'end', 'T_max')
                                  or here.endswith('checkpoint.interval')):  # a second stage stays as it is
                out[here] = max(1, round(value * 30 / 160))
            elif (key, value) == ('type', 'P2PLoss') and f'{path}.target' not in changes:
                out[f'{path}.target'] = 'softmax_code'  # 100 classes in 64 dimensions have no ETF
            elif (key, value) == ('type', 'ETFHead'):
                out[here] = 'SoftmaxCodeHead'

    cfg = Config.fromfile(config)
    cfg.merge_from_dict(changes)
    cfg = cfg.to_dict()
    epochs = cfg['train_cfg']['max_epochs']
    walk(cfg, '')
    for i in range(len(cfg['param_scheduler'])):
        scheduler = f'param_scheduler.{i}.'
        if f'{scheduler}T_max' in out:
            out[f'{scheduler}T_max'] = out[f'{scheduler}end'] - out.get(f'{scheduler}begin', 0)
    if Path(config).parent.name == 'glmc':
        out['model.head.hycon.loss_weight'] = 8.0  # GLMC's own: four times that of CIFAR-10
    return out


def job_settings(args, protocol, name, seed):
    """Config of a job, and its settings to override."""
    config = ROOT / 'configs' / METHODS[name].format(PROTOCOLS[protocol][0])
    return config, settings(args, protocol, seed, config)


def job_fingerprint(args, protocol, name, seed):
    """Of a job's settings, and of its first stage's."""
    own = fingerprint_of(*job_settings(args, protocol, name, seed))
    if name not in SECOND_STAGE:
        return own
    return f'{job_fingerprint(args, protocol, SECOND_STAGE[name][0], seed)}-{own}'


def finished_run(args, protocol, name, seed):
    """Config and checkpoint of a finished run with the present settings."""
    from mmengine.config import Config

    from allnc_mm.visualization.runs import find_run
    expected = job_fingerprint(args, protocol, name, seed)
    if not is_missing(results(protocol)[1], name, seed, expected):
        config, checkpoint, _ = find_run(str(folder(args, protocol, name, seed)))
        if fingerprint(Config.fromfile(config)) == expected:
            return config, checkpoint
    raise ValueError(f'{name} of seed {seed} is not finished with its present settings in {args.work_dirs}; run it '
                     'first.')


def train_job(args, protocol, name, seed):
    """Train one job; in a worker."""
    (config, options), work_dir = job_settings(args, protocol, name, seed), folder(args, protocol, name, seed)
    settings = job_fingerprint(args, protocol, name, seed)
    with alone(work_dir):
        if name not in SECOND_STAGE:
            return dict(settings=settings, **train(config, options, work_dir, args))
        first, keys = SECOND_STAGE[name]
        config1, checkpoint = finished_run(args, protocol, first, seed)
        shutil.rmtree(work_dir, ignore_errors=True)  # short, and may be of another first stage
        work_dir.mkdir(parents=True)
        stage1 = clean_checkpoint(config1, checkpoint, work_dir / 'stage1.pth')
        if name.startswith('tau-norm'):
            return dict(settings=settings, **tau_norm(config1, stage1, work_dir))
        options = {**options, **dict.fromkeys(keys, stage1)}
        return dict(settings=settings, **train(config, options, work_dir, args))


def tau_norm(config, checkpoint, work_dir):
    """Divide the classifier vectors of a run by the power of their lengths that is best on validation; evaluate."""
    import numpy as np
    from mmengine.config import Config

    from allnc_mm.registry import DATASETS
    start = time.time()
    cfg = Config.fromfile(config)
    data = dict(cfg.test_dataloader.dataset)
    if data.get('val_per_class'):
        data['split'] = 'val'
    else:
        data['indices'] = np.flatnonzero(every_other(DATASETS.build(data).get_gt_labels())).tolist()
    cfg.val_dataloader = dict(cfg.test_dataloader, dataset=data)
    cfg.dump(work_dir / Path(config).name)
    tool = [sys.executable, ROOT / 'tools/model_converters/posthoc_rebalance.py', work_dir / Path(config).name,
            checkpoint, work_dir / 'epoch_0.pth']
    with open(work_dir / 'driver.log', 'w') as log:
        subprocess.run(tool, stdout=log, stderr=log, check=True)
    return dict(minutes=round((time.time() - start) / 60, 1), **evaluate(work_dir))


def every_other(labels):
    """Mask of every other image of each class, which choices are made on where there is no validation split."""
    import numpy as np
    odd = np.empty(len(labels), bool)
    for k in np.unique(labels):
        odd[labels == k] = np.arange((labels == k).sum()) % 2
    return odd


def clean_checkpoint(config, checkpoint, path):
    """Write the checkpoint of a run with BatchNorm statistics of unmixed training images; returns the path."""
    import torch
    from mmengine.config import Config
    from mmengine.runner import load_checkpoint

    from allnc_mm.visualization.comparison import build_model
    cfg = Config.fromfile(config)
    model = build_model(cfg)
    load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    clean_statistics(model, cfg)
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


def clean_statistics(model, cfg):
    """Re-estimate the BatchNorm statistics of a model on the training images of its config, without mixture."""
    import torch
    from mmengine.runner import Runner, set_random_seed
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats
    set_random_seed(0)  # the images are augmented
    train = {k: v for k, v in cfg.train_dataloader.items() if k != 'batch_sampler'}
    train = Runner.build_dataloader(dict(train, batch_size=128), seed=0)
    model.train()
    with torch.no_grad():
        update_bn_stats(model, train, num_samples=8192, logger='silent')


def is_missing(done, name, seed, settings):
    """Whether a run is not among the finished ones with the fingerprint ``settings``."""
    return done.get((name, seed), {}).get('settings') != settings


def run(args):
    """Train what is not done yet."""
    todo = []
    for protocol in args.protocol:
        (path, done), stem = results(protocol), PROTOCOLS[protocol][0]
        skipped = SKIPPED.get(protocol, ())
        names = args.only or [name for name, config in METHODS.items()
                              if name not in skipped and (ROOT / 'configs' / config.format(stem)).exists()]
        todo += [(path, dict(name=name, seed=seed, config=METHODS[name].format(stem)), (protocol, name, seed))
                 for seed in args.seeds for name in names
                 if is_missing(done, name, seed, job_fingerprint(args, protocol, name, seed))]
    for second in (False, True):  # second stages find their first ones done
        work_on([job for job in todo if (job[1]['name'] in SECOND_STAGE) == second], train_job, args)


def work_on(todo, function, args):
    """Call ``function(args, *job)`` for each (file, record, job), ``args.jobs`` at a time; append what it returns."""
    import torch
    machine = f'{os.cpu_count()} cores, {platform.machine()}'
    if torch.cuda.is_available():
        machine = f'{torch.cuda.get_device_name()}, {machine}'
    failed = False
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context('spawn'), start_worker) as pool:
        futures = {pool.submit(function, args, *job): (path, record) for path, record, job in todo}
        for future in as_completed(futures):
            path, record = futures[future]
            title = f'{path.stem}, {record["name"]}, seed {record["seed"]}'
            if future.exception() is not None:
                print(f'{title}: {future.exception()!r}', flush=True)
                failed = True
                continue
            record.update(jobs=args.jobs, machine=machine, device_augmentation=args.device_augmentation,
                          **future.result())
            with open(path, 'a') as file:
                file.write(json.dumps(record) + '\n')
            print(f'{title}: test {record["test"]["overall"]:.2f}, {record["minutes"] or "?"} min', flush=True)
    if failed:
        raise SystemExit(1)


def evaluate(work_dir):
    """Metrics of the last checkpoint.

    'test' are the plain test metrics and the geometry. 'tuned' has, for the running and for re-estimated BatchNorm
    statistics ('precise': on the training images without mixture, mmpretrain's PreciseBN), the post-hoc shift tau of
    the logits by the log class prior that is best on the validation split, and the accuracies on both splits with it.
    Where the protocol has no validation split, every other test image of each class is 'val' there, the others 'test'.
    """
    import allnc_mm  # noqa: F401 isort: skip
    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.runner import Runner, load_checkpoint

    from allnc_mm.visualization.comparison import build_model, evaluate_run, find_run
    result = evaluate_run(str(work_dir))
    out = dict(test={k: round(float(v), 4) for k, v in result.metrics.items()}, tuned={})
    out['test']['per_class'] = [round(float(v), 2) for v in result.per_class]

    config, checkpoint, _ = find_run(str(work_dir))
    cfg = Config.fromfile(config)
    splits = ('val', 'test') if cfg.test_dataloader.dataset.get('val_per_class') else ('test', )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = build_model(cfg).to(device)
    load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    loaders = {}
    for split in splits:
        loader = dict(cfg.test_dataloader, dataset=dict(cfg.test_dataloader.dataset, split=split))
        loaders[split] = Runner.build_dataloader(loader)
    log_prior = np.log(result.num_per_class / result.num_per_class.sum())
    classes = range(len(log_prior))
    groups = dict(overall=classes, **result.groups)

    @torch.no_grad()
    def scores(loader):
        model.eval()
        logits, labels = [], []
        for batch in loader:
            samples = model.test_step(batch)
            logits.append(torch.stack([sample.pred_score for sample in samples]))
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
        return torch.cat(logits).double().clamp_min(1e-30).log().cpu().numpy(), np.array(labels)

    def accuracies(logits, labels, tau):
        hit = (logits - tau * log_prior).argmax(1) == labels
        per_class = np.array([hit[labels == k].mean() * 100 for k in classes])  # both splits are balanced
        return {name: round(float(per_class[list(group)].mean()), 2) for name, group in groups.items() if len(group)}

    for statistics in ('running', 'precise'):
        if statistics == 'precise':
            clean_statistics(model, cfg)
        predictions = {split: scores(loader) for split, loader in loaders.items()}
        if 'val' not in predictions:
            logits, labels = predictions['test']
            odd = every_other(labels)
            predictions = dict(val=(logits[odd], labels[odd]), test=(logits[~odd], labels[~odd]))
        taus = sorted((i / 20 for i in range(-20, 81)), key=abs)  # of equals, the smallest
        tau = taus[int(np.argmax([accuracies(*predictions['val'], t)['overall'] for t in taus]))]
        out['tuned'][statistics] = dict(tau=round(float(tau), 2), **{
            f'{split}{suffix}': accuracies(*predictions[split], t)
            for split in predictions for suffix, t in (('', tau), ('_tau0', 0.0))})
    return out


def by_method(protocol):
    """The finished runs of each method that has some."""
    rows = {name: [] for name in METHODS}
    for record in results(protocol)[1].values():
        rows[record['name']].append(record)
    return {name: found for name, found in rows.items() if found}


def tuned(found):
    """The BatchNorm statistics that are better on validation over all seeds, and the results with them by seed."""
    kind = max(('running', 'precise'), key=lambda kind: sum(r['tuned'][kind]['val']['overall'] for r in found))
    return kind, {r['seed']: r['tuned'][kind] for r in found}


def cell(values, digits=1):
    """Mean, and standard deviation if there are several."""
    import numpy as np
    spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{spread}'


def table(protocol):
    """Mean and standard deviation over seeds, as Markdown: the plain last epoch, then tau tuned on validation.

    'best epoch' is what choosing it on the test split would add to `overall`, with the number of seeds that tell;
    'AllNC leads by' is its difference in `overall`, paired by seed, with the number of seeds that both have; on
    CIFAR-100 that of AllNC with a cosine classifier.
    Minutes are those of the slowest seed that trained without a break. The geometry is that of the training images.
    """
    import numpy as np
    rows, leader = by_method(protocol), LEADERS.get(protocol, 'AllNC')
    best_epoch = ('best epoch', ) if any('best_epoch' in r for found in rows.values() for r in found) else ()
    lines = [f'`{protocol}`: test split, last epoch, mean ± standard deviation over seeds', '',
             '| method | seeds | ' + ' | '.join((*COLUMNS, *best_epoch)) + ' | minutes |',
             '| --- ' * (len(COLUMNS) + len(best_epoch) + 3) + '|']
    for name, found in rows.items():
        cells = [cell([r['test'][c] for r in found], 3 if 'cos' in c else 1) for c in COLUMNS]
        gains = [r['best_epoch'] - r['test']['overall'] for r in found if 'best_epoch' in r]
        cells += [f'+{np.mean(gains):.1f} ({len(gains)})' if gains else '' for _ in best_epoch]
        minutes = [r['minutes'] for r in found if r['minutes'] is not None]
        cells.append(f'{max(minutes):.0f}' if minutes else '')
        lines.append(f'| {name} | {len(found)} | ' + ' | '.join(cells) + ' |')
    lines += ['', 'With the post-hoc shift tau, and the BatchNorm statistics, that are best on validation', '',
              f'| method | seeds | tau | statistics | overall | many | medium | few | {leader} leads by |',
              '| --- ' * 9 + '|']
    allnc = tuned(rows.get(leader, []))[1]
    for name, found in rows.items():
        kind, runs = tuned(found)
        cells = [cell([b['test'][group] for b in runs.values()]) for group in ('overall', 'many', 'medium', 'few')]
        lead = [allnc[seed]['test']['overall'] - b['test']['overall'] for seed, b in runs.items() if seed in allnc]
        cells.append(f'{cell(lead)} ({len(lead)})' if lead and name != leader else '')  # paired by seed
        tau = np.mean([b['tau'] for b in runs.values()])
        lines.append(f'| {name} | {len(runs)} | {tau:.2f} | {kind} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def as_trained(protocol, record):
    """`overall` of a run as it was trained, on test images that no choice has seen."""
    if protocol == 'cifar100-if100':  # validation is half of its test split
        return record['tuned']['running']['test_tau0']['overall']
    return record['test']['overall']


def summary():
    """`overall` on the test split of every protocol, as trained and tuned, as Markdown; a dash where SKIPPED.

    The best tuned ones of the first protocol lead; methods that it has not come last.
    """
    import numpy as np
    names = [protocol for protocol in PROTOCOLS if protocol != 'digits']
    found = {protocol: by_method(protocol) for protocol in names}
    last = {p: {name: [as_trained(p, r) for r in runs] for name, runs in found[p].items()} for p in names}
    best = {p: {name: [b['test']['overall'] for b in tuned(runs)[1].values()] for name, runs in found[p].items()}
            for p in names}
    lines = ['Test split, `overall`: last epoch as trained / with tau and BatchNorm statistics from validation '
             '(seeds); on CIFAR-100, where every other test image is for validation, of the rest. In the order of '
             f'`{names[0]}`, tuned', '',
             '| method | ' + ' | '.join(f'`{p}`' for p in names) + ' |', '| --- ' * (len(names) + 1) + '|']
    for name in sorted(METHODS, key=lambda name: -np.mean(best[names[0]].get(name, 0))):
        cells = []
        for p in names:
            if name not in best[p]:
                cells.append('–' if name in SKIPPED.get(p, ()) else '')
                continue
            text = f'{cell(best[p][name])} ({len(best[p][name])})'
            if np.mean(best[p][name]) == max(map(np.mean, best[p].values())):
                text = f'**{text}**'
            cells.append(f'{cell(last[p][name])} / {text}')
        if any(name in best[p] for p in names):
            lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def with_own_columns(text):
    """A page of configs/ with our accuracy behind each mark <!-- own FOLDER/STEM -->, as far as it has been run."""
    import numpy as np
    found, method = {}, {config: name for name, config in reversed(METHODS.items())}  # the first of a config
    for protocol in ('digits', 'cifar10-if100'):  # the settings of the configs as they stand
        for (name, _), record in results(protocol)[1].items():
            if name != method[METHODS[name]]:
                continue
            found.setdefault(record['config'].removesuffix('.py'), []).append(record['test']['overall'])

    def fill(match):
        values = found.get(match[1])
        spread = f' ± {np.std(values, ddof=1):.1f}' if values and len(values) > 1 else ''
        return f'<!-- own {match[1]} --> ' + (f'{np.mean(values):.1f}{spread} ' if values else '')

    return re.sub(r'<!-- own (\S+) --> [^|]*', fill, text)


def add_run_arguments(parser):
    """Arguments of a study's runs."""
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, one CPU thread each')
    parser.add_argument('--device-augmentation', action='store_true', help='DeviceAugmentationHook; for GPUs')
    parser.add_argument('--best-epoch', action='store_true',
                        help='also evaluate about ten epochs of the second half on the test split')
    parser.add_argument('--data-root', help='default: that of the config')
    parser.add_argument('--work-dirs', default='work_dirs/protocols')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run_ = commands.add_parser('run')
    run_.add_argument('protocol', choices=PROTOCOLS, nargs='+')
    run_.add_argument('--only', nargs='+', choices=METHODS, metavar='NAME', help='default: all that have a config')
    add_run_arguments(run_)
    show = commands.add_parser('table')
    show.add_argument('protocol', choices=(*PROTOCOLS, 'summary'), help='summary: `overall` in every protocol')
    show.add_argument('--into', metavar='FILE', help='Markdown file with the marks of the protocol')
    commands.add_parser('own', help='write the own columns of configs/*/README.md')
    args = parser.parse_args()
    if args.command == 'run':
        return run(args)
    if args.command == 'own':
        for page in (ROOT / 'configs').glob('*/README.md'):
            page.write_text(with_own_columns(page.read_text()))
        return
    text = summary() if args.protocol == 'summary' else table(args.protocol)
    if args.into:
        markdown_tables.insert(args.into, args.protocol, text)
    else:
        print(text)


if __name__ == '__main__':
    main()
