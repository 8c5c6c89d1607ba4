"""Generalised neural collapse on real images, small: curves, class assignment, and "Tammes = softmax code".

python benchmarks/gnc.py run [STUDY ...] [--jobs N]        does what is not done yet; on the GPU where there is one
python benchmarks/gnc.py table [STUDY ...] [--into FILE]   prints the tables from the results
python benchmarks/gnc.py plot                              draws the curves to docs/images/gnc_curves.png

STUDY is one or more of these, by default all:

curves      GNC1, GNC2 and GNC3 over the epochs: 100 classes in d = 10, 20, 30 dimensions, temperatures from 1 to 1/20,
            learned, class-mean and fixed classifiers. CIFAR-100 with 30 training images a class; 20 official test
            images a class are held out, the others fill up classes of which fewer training images are at hand.
assignment  4 classes of CIFAR-10 on the fixed square in the plane, in its 3 orders; 500 training images a class,
            temperature 1/3, BatchNorm before the sphere, learning rate .03; no augmentation but for
            the learned runs, whose class means would say nothing after full collapse.
codes       Tied (Tammes) against free optimisation of the one-vs-rest distance, with certificates; no training.

Models and recipes are those of configs/gnc with a quarter of the channels, 16 x 16 pixels and batches of 50. A finished
job is a line in results/gnc.jsonl, so a run that was killed goes on where it was.
"""
import argparse
import functools
import json
import multiprocessing
import os
import platform
import time
from pathlib import Path

import markdown_tables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / 'results' / 'gnc.jsonl'
PICTURE = ROOT / 'docs' / 'images' / 'gnc_curves.png'
SEEDS = (0, 1, 2)
LEARNED, CMF = 'resnet18_cifar100_d{}.py', 'resnet18_cifar100_d10_cmf.py'
CURVES = {  # name: (config under configs/gnc, overrides)
    'd=10, tau=1': (LEARNED.format('10_tau1'), {}),
    'd=10, tau=1/5': (LEARNED.format(10), {'model.head.temperature': 1 / 5}),
    'd=10, tau=1/10': (LEARNED.format(10), {}),
    'd=10, tau=1/20': (LEARNED.format(10), {'model.head.temperature': 1 / 20}),
    'd=20, tau=1': (LEARNED.format(20), {'model.head.temperature': 1.0}),
    'd=20, tau=1/10': (LEARNED.format(20), {}),
    'd=30, tau=1': (LEARNED.format(30), {'model.head.temperature': 1.0}),
    'd=30, tau=1/10': (LEARNED.format(30), {}),
    'd=10, tau=1/10, CMF, beta=.9': (CMF, {}),
    'd=10, tau=1/10, CMF, beta=.1': (CMF, {'model.head.momentum': 0.1}),
    'd=10, tau=1/10, fixed code': (LEARNED.format('10_softmax-code'), {}),
}
REPEATED = ('d=10, tau=1', 'd=10, tau=1/10', 'd=20, tau=1/10', 'd=30, tau=1/10', 'd=10, tau=1/10, CMF, beta=.9')
CLASSES = {'automobile': 1, 'cat': 3, 'dog': 5, 'truck': 9}
ORDERS = ('dog', 'automobile', 'truck')  # which class is opposite the cat
ASSIGNMENT = [*(f'cat opposite {name}' for name in ORDERS), 'learned']
CODES = [(3, k) for k in (*range(7, 16), 19, 20, 23, 24)] + [
    (4, k) for k in (9, 10, 12, 16, 20, 24)] + [
    (5, 11), (5, 16), (5, 20), (6, 20), (6, 27), (7, 56), (8, 40), (10, 40), (10, 60), (10, 100), (20, 100)]
CURVE_EPOCHS, ASSIGNMENT_EPOCHS, EVERY, PER_CLASS, BATCH = 56, 80, 4, 30, 50


def jobs_of(study):
    """All jobs of a study, (study, name, seed), the small seeds first."""
    if study == 'codes':
        return [(study, f'd={d}, K={k}', 0) for d, k in CODES]
    if study == 'assignment':
        return [(study, name, seed) for seed in SEEDS for name in ASSIGNMENT]
    return [(study, name, seed) for seed in SEEDS for name in CURVES if seed == 0 or name in REPEATED]


def results(path=None):
    """Finished jobs, (study, name, seed): record."""
    path = path or RESULTS
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r['study'], r['name'], r['seed']): r for r in map(json.loads, lines)}


def rounded(value, digits=10):
    """Floats with so many significant digits, points of curves with five; NaN (no classifier yet) is null."""
    if isinstance(value, dict):
        return {k: rounded(v, 5 if k == 'curve' else digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float):
        return None if value != value else float(f'{value:.{digits}g}')
    return value


def small(images):
    """uint8 images (N, 32, 32, 3) as a tensor (N, 3, 16, 16), means of 2 x 2 pixels."""
    import torch
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(x, 2).round().to(torch.uint8)


def cifar100(root):
    """Training and held-out images and labels, ``PER_CLASS`` and 20 a class."""
    import numpy as np
    import torch

    from allnc_mm.datasets import CIFAR100LT
    source = CIFAR100LT(root, split='test')
    (train, index, labels), (test, _, test_labels) = source._read(True), source._read(False)
    labels = labels[index]
    chosen, held_out = [], []
    for k in range(100):
        own, other = train[labels == k], test[test_labels == k]
        chosen.append(np.concatenate([own, other[20:]])[:PER_CLASS])
        held_out.append(other[:20])
    out = []
    for images in (chosen, held_out):
        out += [small(np.concatenate(images)), torch.arange(100).repeat_interleave(len(images[0]))]
    return out


def cifar10(root):
    """500 training images of each of the four classes, and all of their test images."""
    import torch

    from allnc_mm.datasets import CIFAR10LT
    out = []
    for split in ('train', 'test'):
        source = CIFAR10LT(root, split=split, imb_factor=1, n_max=500)
        labels = torch.from_numpy(source.get_gt_labels())
        keep = torch.isin(labels, torch.tensor(list(CLASSES.values())))
        new = torch.full((10, ), -1)
        new[list(CLASSES.values())] = torch.arange(len(CLASSES))
        out += [small(source._images[keep.numpy()]), new[labels[keep]]]
    return out


def fit(cfg, data, epochs, seed, measure_every=None):
    """Train a model of a config as the config says, but on images in the device's memory and for ``epochs`` epochs.

    Returns the model, its input normalisation, the measurements over the epochs and the seconds.
    """
    import torch
    from mmengine.config import Config
    from mmpretrain.registry import TRANSFORMS
    from mmpretrain.structures import DataSample

    from allnc_mm.datasets.transforms.whole_batch import WholeBatch
    from allnc_mm.visualization.runs import build_model
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(seed)
    model = build_model(Config(dict(cfg)))
    model.init_weights()
    model = model.to(device, memory_format=torch.channels_last)
    x, y, x_test, y_test = (t.to(device) for t in data)
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    samples = [DataSample().set_gt_label(label) for label in y]
    augment = WholeBatch([TRANSFORMS.build(t) for t in cfg.train_pipeline])
    order = torch.Generator().manual_seed(seed)

    def prepare(images):
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(images):
        model.eval()
        with torch.autocast(device, torch.bfloat16):
            parts = [model.extract_feat(prepare(part))[-1] for part in images.split(1000)]
        return torch.cat(parts).float()

    optimizer = torch.optim.SGD(model.parameters(), **{k: v for k, v in cfg.optim_wrapper.optimizer.items()
                                                       if k != 'type'})
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve, start = [], time.time()
    for epoch in range(epochs):
        if measure_every and epoch % measure_every == 0:
            curve.append(dict(epoch=epoch, **measure(model, features(x), y, features(x_test), y_test)))
        model.train()
        for index in torch.randperm(len(x), generator=order).split(BATCH)[:len(x) // BATCH]:
            draws = torch.rand(len(index), augment.draws, generator=order)
            images = prepare(augment(x[index.to(device)], draws.to(device)))
            with torch.autocast(device, torch.bfloat16):
                feats = model.extract_feat(images)
            loss = model.head.loss(feats, [samples[i] for i in index.tolist()])['loss']
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    curve.append(dict(epoch=epochs, **measure(model, features(x), y, features(x_test), y_test)))
    return model, features, curve, time.time() - start


def measure(model, features, y, features_test, y_test):
    """Accuracies in percent, loss, and GNC1 to GNC3 on the training images; GNC2 is a proven lower bound."""
    import torch

    from allnc_mm.functional import ClassStatistics, aligned_cosines, gnc2, nc1, unit_rows
    with torch.no_grad():
        logits, logits_test = model.head((features, )), model.head((features_test, ))
        weight = model.head.classifier_weight.cpu()
    stats = ClassStatistics(model.head.num_classes, features.shape[1])
    stats.update(unit_rows(features.cpu().double()), y.cpu())
    means = stats.class_means()
    return dict(
        train=float((logits.argmax(1) == y).float().mean() * 100),
        test=float((logits_test.argmax(1) == y_test).float().mean() * 100),
        loss=float(torch.nn.functional.cross_entropy(logits, y)),
        gnc1=nc1(stats), gnc2=gnc2(weight, means),
        gnc3=1 - float(aligned_cosines(weight, means, center_means=False).mean()))


def load(config, overrides):
    """A config of configs/gnc with the small network in it."""
    import allnc_mm  # noqa: F401 isort: skip
    from mmengine.config import Config
    cfg = Config.fromfile(ROOT / 'configs' / 'gnc' / config)
    cfg.model.backbone.update(stem_channels=16, base_channels=16)
    cfg.model.neck.in_channels = 128
    cfg.train_pipeline = [dict(type='RandomCrop', crop_size=16, padding=2),
                          dict(type='RandomFlip', prob=0.5, direction='horizontal')]
    cfg.merge_from_dict(overrides)
    return cfg


def curves(name, seed, args):
    """One training of the study of curves."""
    from allnc_mm.functional import one_vs_rest_distance
    from allnc_mm.theory import spherical
    config, overrides = CURVES[name]
    cfg = load(config, overrides)
    cfg.train_pipeline = []  # no augmentation: to the end of training, where collapse is, within a few minutes
    epochs = args.epochs or CURVE_EPOCHS
    model, _, curve, seconds = fit(cfg, cifar100(f'{args.data_root}/cifar100'), epochs, seed, EVERY)
    lower, upper, _ = one_vs_rest_distance(model.head.classifier_weight.detach().cpu().double())
    columns = {key: [point[key] for point in curve] for key in curve[0]}
    d, scale = cfg.model.head.in_channels, float(model.head.scale)
    return dict(d=d, epochs=epochs, seconds=seconds, rho_lower=lower, rho_upper=upper,
                free_rho=spherical(100, d, [1 / scale], restarts=1, seed=seed)[0].extra['rho'], curve=columns)


def assignment(name, seed, args):
    """One training on the square; 'learned' is a 64-dimensional one, whose class means say which classes are alike."""
    import torch

    from allnc_mm.functional import ClassStatistics, assign_classes, pairwise_cosines
    from allnc_mm.geometry_cache import cached_softmax_code
    d, classes = (64 if name == 'learned' else 2), list(CLASSES)
    cfg = load(LEARNED.format(10), {})
    # in the plane a feature meets its class vector by going round, past those of other classes: at temperature
    # 1/10, or from features that all start in one direction, training ends on the way
    cfg.model.neck.update(out_channels=d, norm_cfg=dict(type='BN1d'))
    cfg.optim_wrapper.optimizer.lr = 0.03
    if name != 'learned':  # fitted to the end, class means are a simplex and no longer say which classes are alike
        cfg.train_pipeline = []  # as in `curves`
    code = cached_softmax_code(4, 2)
    opposite = (code @ code.T).argmin(1)
    orders = {}
    for other in ORDERS:  # the cat on row 0, another class opposite, the other two on what is left
        rows = {'cat': 0, other: int(opposite[0])}
        rest = iter(sorted({0, 1, 2, 3} - set(rows.values())))
        orders[other] = [rows[c] if c in rows else next(rest) for c in classes]
    head = dict(num_classes=4, in_channels=d, loss=dict(type='CrossEntropyLoss'))
    if name == 'learned':
        head.update(type='SphericalHead', temperature=1 / 3)
    else:
        head.update(type='SoftmaxCodeHead', length=3.0, assignment=orders[name.rpartition(' ')[2]])
    cfg.model.head = head
    data = cifar10(f'{args.data_root}/cifar10')
    epochs = args.epochs or ASSIGNMENT_EPOCHS
    model, features, curve, seconds = fit(cfg, data, epochs, seed)
    final = curve[-1]
    z = features(data[2].to(next(model.parameters()).device))
    hits = (model.head((z, )).argmax(1).cpu() == data[3])
    record = dict(epochs=epochs, seconds=seconds, train=final['train'], test=final['test'],
                  per_class={c: float(hits[data[3] == k].float().mean() * 100) for k, c in enumerate(classes)})
    if name == 'learned':
        stats = ClassStatistics(4, d)
        stats.update(features(data[0].to(z.device)).cpu(), data[1])
        similarity = pairwise_cosines(stats.class_means())
        gram = code @ code.T
        record['similarity'] = similarity.tolist()
        for mode in ('similar', 'dissimilar'):
            order = torch.as_tensor(assign_classes(similarity, code, mode))
            cat = classes.index('cat')
            record[mode] = 'cat opposite ' + classes[int(gram[order[cat]][order].argmin())]
    return record


def codes(name, seed, args):
    """The best codes of equally many restarts, tied and free; each kind then goes on from the best that is known."""
    import torch

    from allnc_mm.functional import max_cosine, one_vs_rest_distance, rattlers, unit_rows
    from allnc_mm.functional.softmax_codes import _LAST, _anneal, _Clock, _schedule
    from allnc_mm.geometry_cache import cached_softmax_code
    dim, num_classes = (int(part.partition('=')[2]) for part in name.split(','))
    restarts = max(8, min(256, 80_000 // num_classes**2 // 4 * 4))
    generator = torch.Generator().manual_seed(seed)
    starts = unit_rows(torch.randn(restarts, 1, num_classes, dim, generator=generator, dtype=torch.float64))

    def descend(x, first, kind):
        """Codes from starts (R, 1, K, d), and for each the distance that its own h prove."""
        x = x.repeat(1, 2, 1, 1) if kind == 'free' else x
        x, _ = _anneal(x, _schedule(first, _LAST, 10**0.25), 300, _Clock(None), free=kind == 'free')
        w, h = x[:, 0], x[:, -1]
        cosine = h @ w.transpose(1, 2)
        own = cosine.diagonal(dim1=1, dim2=2).clone()
        cosine.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        return list(zip((own - cosine.amax(2)).amin(1).tolist(), w))

    firsts = (5.0, 20.0, 60.0, 200.0) if dim <= 5 else (5.0, 20.0)  # high ones are of use in few dimensions alone
    found, seconds = {}, {}
    for kind in ('tied', 'free'):
        begin = time.process_time()
        found[kind] = sum((descend(part, b, kind) for b, part in zip(firsts, starts.chunk(len(firsts)))), [])
        seconds[kind] = time.process_time() - begin
    best = {kind: sorted(pairs, key=lambda pair: -pair[0])[:3] for kind, pairs in found.items()}
    known = cached_softmax_code(num_classes, dim)  # of more search than this
    record = dict(d=dim, K=num_classes, restarts=restarts)
    for kind, other in (('tied', 'free'), ('free', 'tied')):
        begin = time.process_time()
        near = torch.stack([w for _, w in best[other]] + [known])[:, None]
        pairs = best[kind] + descend(near, 3e3, kind)
        if kind == 'tied':  # its value is a maximum of cosines, known to the last digits
            code = min((w for _, w in pairs), key=max_cosine)
            lower = upper = 1 - max_cosine(code)
        else:
            exact = [(one_vs_rest_distance(w), w) for _, w in sorted(pairs, key=lambda pair: -pair[0])[:3]]
            (lower, upper, _), code = max(exact, key=lambda pair: pair[0].lower)
        record[kind] = dict(lower=lower, upper=upper, rattlers=int(rattlers(code).sum()),
                            hits=sum(value > lower - 1e-6 for value, _ in found[kind]),
                            seconds=seconds[kind] + time.process_time() - begin)
        if kind == 'free':
            record[kind]['tammes'] = 1 - max_cosine(code)
    return record


STUDIES = dict(curves=curves, assignment=assignment, codes=codes)


def work(job, args):
    """Do one job; returns its record."""
    import torch
    from mmengine.logging import MMLogger
    MMLogger.get_current_instance().setLevel('WARNING')
    study, name, seed = job
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.jobs))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and study != 'codes' else platform.machine()
    start = time.time()
    record = STUDIES[study](name, seed, args)
    minutes = round((time.time() - start) / 60, 2)
    return dict(study=study, name=name, seed=seed, minutes=minutes, device=device, **record)


def run(args):
    """Do what is not done, in worker processes; write each result as it comes."""
    path = args.results or RESULTS
    done = results(path)
    jobs = [job for study in args.studies for job in jobs_of(study) if job not in done]
    if args.only:
        jobs = [job for job in jobs if job[1] in args.only]
    print(f'{len(jobs)} jobs to do, {len(done)} done', flush=True)
    if not jobs:
        return
    context = multiprocessing.get_context('spawn')  # a fork would not survive CUDA
    with context.Pool(min(args.jobs, len(jobs))) as pool:
        pending = [(job, pool.apply_async(work, (job, args))) for job in jobs]
        failed = 0
        while pending:
            time.sleep(0.2)
            for job, result in [p for p in pending if p[1].ready()]:
                pending.remove((job, result))
                try:
                    record = rounded(result.get())
                except Exception as error:  # the others go on
                    failed += 1
                    print(f'{job}: {type(error).__name__}: {error}', flush=True)
                    continue
                with open(path, 'a') as file:
                    file.write(json.dumps(record) + '\n')
                print(f'{job}: {record["minutes"]:.1f} min', flush=True)
    if failed:
        raise SystemExit(f'{failed} jobs failed; run the command again for them alone.')


def cell(values, digits=2):
    """Mean and standard deviation over seeds."""
    import numpy as np
    spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
    return f'{np.mean(values):.{digits}f}{spread}'


def rows_of(study):
    """Records of each name of a study that has any."""
    records = [r for (kind, _, _), r in results().items() if kind == study]
    rows = {name: [r for r in records if r['name'] == name] for _, name, _ in jobs_of(study)}
    return {name: found for name, found in rows.items() if found}


def markdown(title, header, lines):
    """A table with its title."""
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join([title, '', *('| ' + ' | '.join(row) + ' |' for row in rows)])


@functools.cache
def code_rho(dim):
    """Certified one-vs-rest distance of our code of 100 vectors."""
    from allnc_mm.functional import one_vs_rest_distance
    from allnc_mm.geometry_cache import cached_softmax_code
    return one_vs_rest_distance(cached_softmax_code(100, dim)).lower


def curves_table():
    """Last epoch of each run; GNC2 beside that of our code, and of free features (no network) at this temperature."""
    lines = []
    for name, found in rows_of('curves').items():
        last = [{key: values[-1] for key, values in r['curve'].items()} for r in found]
        share = [100 * r['rho_lower'] / code_rho(r['d']) for r in found]
        lines.append([name, str(len(found)), cell([p['train'] for p in last], 1), cell([p['test'] for p in last], 1),
                      cell([p['gnc1'] for p in last], 4), cell([r['rho_lower'] for r in found], 3),
                      cell([r['free_rho'] for r in found], 3), f'{code_rho(found[0]["d"]):.3f}', cell(share, 0),
                      cell([p['gnc3'] for p in last], 4)])
    gap = max((r['rho_upper'] - r['rho_lower'] for found in rows_of('curves').values() for r in found), default=0)
    return markdown(
        f'CIFAR-100, {PER_CLASS} training images a class, {CURVE_EPOCHS} epochs; last epoch, mean ± standard deviation '
        f'over seeds. GNC2 is certified: lower and upper bound are at most {max(gap, 1e-9):.0e} apart',
        ['run', 'seeds', 'train %', 'held out %', 'GNC1', 'GNC2', 'free features', 'our code', '% of it', 'GNC3'],
        lines)


def assignment_table():
    found = rows_of('assignment')
    picks = found.get('learned', [])
    lines = []
    for name, records in found.items():
        chosen = [f'{mode} ({sum(p[mode] == name for p in picks)} of {len(picks)})' for mode in
                  ('similar', 'dissimilar') if any(p[mode] == name for p in picks)]
        lines.append([name if name != 'learned' else 'learned, d=64', str(len(records)),
                      cell([r['test'] for r in records], 1), cell([r['train'] for r in records], 1),
                      *(cell([r['per_class'][c] for r in records], 1) for c in CLASSES), ', '.join(chosen)])
    return markdown(
        f'CIFAR-10 {", ".join(CLASSES)}; 500 training images a class, {ASSIGNMENT_EPOCHS} epochs, all test images; a '
        'fixed square in the plane. The last column is what `assign_classes` picks from the class means of the learned '
        'runs', ['order', 'seeds', 'test %', 'train %', *CLASSES, '`assign_classes`'], lines)


def codes_table():
    """Tied and free; a search ends within log(K^2) / 3e6 of its optimum, so less than 1e-6 is no difference."""
    lines = []
    for (r, ) in rows_of('codes').values():
        tied, free = r['tied'], r['free']
        difference, gap = free['lower'] - tied['upper'], free['upper'] - free['lower']
        verdict = 'equal' if difference <= 1e-6 else f'free better by {difference:.1e}'
        lines.append([f'({r["d"]}, {r["K"]})', str(r['restarts']), f'{tied["lower"]:.7f}', str(tied['hits']),
                      str(tied['rattlers']), f'{free["lower"]:.7f}', str(free['hits']), str(free['rattlers']),
                      f'{gap:.0e}' if gap > 1e-9 else '< 1e-9', verdict])
    return markdown(
        'Largest 1 - c (tied) and largest certified rho (free, "gap" to its proven upper bound) that were found, from '
        'equally many restarts, the code of `softmax_code`, and the best of the other kind; "hits" are restarts that '
        'came within 1e-6 of it', ['(d, K)', 'restarts', 'tied', 'hits', 'rattlers', 'free', 'hits', 'rattlers', 'gap',
                                   'verdict'], lines)


TABLES = dict(curves=curves_table, assignment=assignment_table, codes=codes_table)


def table(studies):
    """The tables of some studies, from the results alone."""
    return '\n\n'.join(TABLES[study]() for study in studies if rows_of(study))


def insert(studies, path):
    """Write the table of each study that has results between its marks, <!-- gnc-STUDY -->, of a Markdown file."""
    for study in studies:
        found = table([study])
        if found:
            markdown_tables.insert(path, f'gnc-{study}', found)


def plot(path=PICTURE):
    """Curves over the epochs: mean over seeds, and the range of the seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    from allnc_mm.visualization.figures import COLORS, save_png
    records = rows_of('curves')
    groups = [[n for n in records if n.startswith('d=10') and 'fixed' not in n],
              [n for n in records if n in ('d=10, tau=1/10', 'd=20, tau=1/10', 'd=30, tau=1/10', 'd=10, tau=1',
                                           'd=20, tau=1', 'd=30, tau=1')]]
    figure = Figure(figsize=(14, 7), layout='constrained')
    axes = figure.subplots(2, 3)
    titles = dict(gnc1='GNC1: spread within classes (towards 0)', gnc2='GNC2: one-vs-rest distance / that of our code',
                  gnc3='GNC3: 1 - cos(classifier, class mean)')
    for second, (row, names) in enumerate(zip(axes, groups)):
        for ax, (key, title) in zip(row, titles.items()):
            for i, name in enumerate(names):
                values = np.array([r['curve'][key] for r in records[name]], dtype=float)
                if key == 'gnc2':
                    values = values / code_rho(records[name][0]['d'])
                epochs = records[name][0]['curve']['epoch']
                color = COLORS[int(name[2]) - 1 if second else i]  # below, one for each d
                style = dict(color=color, ls='--' if name.endswith('tau=1') else '-')
                ax.plot(epochs, values.mean(0), label=name, lw=1.5, **style)
                ax.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
            if key == 'gnc2':
                ax.axhline(1, color='gray', ls=':')
            else:
                ax.set_yscale('log')
            ax.set(title=title, xlabel='epoch')
        row[2].legend(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5))
    save_png(figure, str(path), dpi=100, max_bytes=200_000)
    print(f'{path}: {path.stat().st_size / 1000:.0f} kB')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    for name in ('run', 'table'):
        command = commands.add_parser(name)
        command.add_argument('studies', nargs='*', metavar='STUDY', help=f'of {", ".join(STUDIES)}; default: all')
        if name == 'table':
            command.add_argument('--into', metavar='FILE', help='Markdown file with the marks of the studies')
            continue
        command.add_argument('--jobs', type=int, default=2, help='processes at a time')
        command.add_argument('--only', nargs='+', metavar='NAME', help='names of runs; default: all')
        command.add_argument('--data-root', default='data', help='folder with cifar10/ and cifar100/')
        command.add_argument('--epochs', type=int, help='fewer epochs, for a trial; the records go to --results')
        command.add_argument('--results', type=Path, help='file of the records; default: benchmarks/results/gnc.jsonl')
    commands.add_parser('plot')
    args = parser.parse_args()
    if args.command == 'plot':
        plot()
        return
    unknown = set(args.studies) - set(STUDIES)
    if unknown:
        parser.error(f'there is no study {", ".join(sorted(unknown))}; choose from {", ".join(STUDIES)}')
    args.studies = args.studies or list(STUDIES)
    if args.command == 'run':
        if args.epochs and not args.results:
            parser.error('--epochs is for trials: give --results, so that their records stay apart')
        run(args)
    elif args.into:
        insert(args.studies, args.into)
    else:
        print(table(args.studies))


if __name__ == '__main__':
    main()
