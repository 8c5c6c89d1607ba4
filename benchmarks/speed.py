"""What the data path and a training step cost, as ratios measured in one run.

python benchmarks/speed.py run [PART ...]   measures (default: all of the parts below), appends to results/speed.jsonl
python benchmarks/speed.py table [--into FILE]   prints the tables from the latest records

`data`: images per CPU-second of the ordinary pipeline (transforms, collate, data preprocessor) and of
DeviceAugmentationHook, on CIFAR images in memory. `folders`: views per CPU-second of JPEG files of 500 x 375, decoded,
cropped to 224, flipped and colour-jittered by torchvision, by mmpretrain's pipeline (configs/ce) and by that of two
views from one decode (configs/allnc). `step`: a training iteration of the mini protocol with everything in it (data,
hooks, logging) for a bare PyTorch loop of the same network, mmpretrain's ImageClassifier with CE, the same with
mixture, and AllNC; the same number of images is passed in each. `breakdown`: the parts of the last two. `precision`:
the iteration of CE in both precisions and memory formats. `compile`: the iterations of CE and AllNC with mmengine's
`compile=True` (torch.compile) and without, after compilation. `classes`: forward, losses and backward of AllNC's head
over K and the batch beside a linear head with CE (P2P on at most 1024 classes a step), and the peak memory.
`inference`: segmentation of frames of 240 x 180 by the networks of benchmarks/camvid.py, which differ in training and
not here. Contestants take turns, so that a noisy machine hits all; times are CPU seconds of one thread, on a GPU wall
seconds. Images are random: only their size matters.
"""
import argparse
import json
import os
import platform
import resource
import tempfile
import time
import uuid
from pathlib import Path

import allnc_mm.segmentation  # noqa: F401 isort: skip
import camvid
import markdown_tables
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from torch import nn

from allnc_mm.models.utils.device_augmentation import DeviceAugmentation
from allnc_mm.registry import DATASETS, MODELS, TRANSFORMS

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / 'configs'
RESULTS = HERE / 'results' / 'speed.jsonl'
CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'


def clock():
    """Seconds: CPU time of this process, or wall time after the GPU has finished."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def take_turns(contestants, rounds=7):
    """Median seconds of each of several functions, which run one after the other, ``rounds`` times."""
    seconds = {name: [] for name in contestants}
    for function in contestants.values():
        function()  # warm up
    for _ in range(rounds):
        for name, function in contestants.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


@DATASETS.register_module(force=True)
class RandomCIFAR10LT(DATASETS.get('CIFAR10LT')):
    """CIFAR10LT with random pixels: no file is needed."""

    def _read(self, train):
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (50000, 32, 32, 3), dtype=np.uint8), np.arange(50000), np.arange(50000) % 10


def measure_data():
    cfg = Config.fromfile(CONFIGS / 'bcl' / 'resnet32_cifar10-lt-if100.py')
    strong = cfg.strong_view
    out = []
    for name, transforms in (('crop, flip', strong[:2]), ('crop, flip, AutoAugment, cutout', strong)):
        data = DATASETS.build(dict(type='RandomCIFAR10LT', n_max=500, pipeline=[*transforms, dict(type='PackInputs')]))
        data.set_epoch(0)
        plain = MODELS.build(dict(cfg.data_preprocessor, type='MultiViewDataPreprocessor')).to(DEVICE)
        whole = DeviceAugmentation(plain, [data.pipeline.transforms]).to(DEVICE)
        batch = list(range(256))

        def run(preprocessor, whole_batch, data=data, batch=batch):
            data.whole_batch = whole_batch
            samples = data.__getitems__(batch)
            preprocessor(samples if whole_batch else default_collate(samples), True)

        seconds = take_turns({'pipeline': lambda plain=plain: run(plain, False),
                              'device': lambda whole=whole: run(whole, True)})
        out.append(dict(transforms=name, **{k: round(256 / v) for k, v in seconds.items()}))
    return out


def measure_folders(images=48):
    from mmcv.transforms import Compose
    from PIL import Image
    from torchvision.transforms import v2
    rng, files = np.random.default_rng(0), []
    mmpretrain, two_views = (
        Compose([TRANSFORMS.build(t) for t in Config.fromfile(CONFIGS / name).train_dataloader.dataset.pipeline])
        for name in ('ce/resnet50_imagenet-lt.py', 'allnc/resnet50_imagenet-lt.py'))
    torchvision = v2.Compose([
        v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4), v2.PILToTensor()])
    with tempfile.TemporaryDirectory() as folder:
        for i in range(images):  # coarse shapes under fine grain
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
            pixels = np.asarray(coarse) + rng.normal(0, 8, (375, 500, 3))
            files.append(f'{folder}/{i}.jpg')
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(files[-1], quality=85)
        kilobytes = round(sum(map(os.path.getsize, files)) / images / 1000)

        def load(pipeline):
            return lambda: [pipeline(dict(img_path=file, gt_label=0)) for file in files]

        seconds = take_turns({
            'torchvision': lambda: [torchvision(Image.open(file).convert('RGB')) for file in files],
            'mmpretrain': load(mmpretrain), 'two views, one decode': load(two_views)})
    return [dict(loader=name, kilobytes=kilobytes, views=round(images * (2 if 'two' in name else 1) / value))
            for name, value in seconds.items()]


class EpochClock(Hook):
    """CPU seconds of every epoch but the first."""

    priority = 'LOWEST'

    def __init__(self):
        self.seconds = []

    def before_train_epoch(self, runner):
        self.start = clock()

    def after_train_epoch(self, runner):
        if runner.epoch:
            self.seconds.append(clock() - self.start)


class Breakdown(Hook):
    """CPU seconds of the parts of every iteration but those of the first epoch, each without the parts within it."""

    priority = 'LOWEST'

    def __init__(self):
        self.seconds, self.within = {}, ['hooks, logging, the rest']

    def before_train(self, runner):
        model, optim_wrapper = runner.model, runner.optim_wrapper
        for name, owner, method in (
                ('data set', runner.train_dataloader.dataset, '__getitems__'),
                ('augmentation, mixture', model.data_preprocessor, 'forward'),
                ('augmentation, mixture', getattr(model, 'mixture', None), 'forward'),
                ('network', model.backbone, 'forward'), ('network', model.neck, 'forward'),
                ('classifier, its losses, class means', model.head, 'loss'),
                ('HyCon', getattr(model.head, 'hycon', None), 'forward'),
                ('P2P', getattr(model.head, 'p2p', None), 'forward'), ('backward', optim_wrapper, 'backward'),
                ('optimiser', optim_wrapper, 'step'), ('optimiser', optim_wrapper, 'zero_grad')):
            if owner is not None:
                setattr(owner, method, self.watch(name, getattr(owner, method)))

    def watch(self, name, function):
        def watched(*args, **kwargs):
            self.mark()
            self.within.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.mark()
                self.within.pop()
        return watched

    def mark(self):
        now = clock()
        self.seconds[self.within[-1]] = self.seconds.get(self.within[-1], 0) + now - self.last
        self.last = now

    def before_train_epoch(self, runner):
        self.last = clock()

    def after_train_epoch(self, runner):
        self.mark()
        if not runner.epoch:
            self.seconds.clear()


def train(config, epochs=4, watch=None, **settings):
    """Seconds per iteration of a config on random images, in the mini protocol; or what a hook ``watch`` notes."""
    cfg = Config.fromfile(CONFIGS / config)
    cfg.merge_from_dict(settings)
    cfg.work_dir, cfg.log_level, cfg.experiment_name = '/tmp/allnc_speed', 'ERROR', uuid.uuid4().hex
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.train_dataloader.dataset.update(type='RandomCIFAR10LT')
    cfg.train_cfg.max_epochs = epochs
    cfg.default_hooks.checkpoint.update(interval=1000, save_last=False)
    cfg.custom_hooks = [dict(type='DeviceAugmentationHook')]
    runner = Runner.from_cfg(cfg)
    watch = watch or EpochClock()
    runner.register_hook(watch)
    runner.train()
    return watch.seconds, len(runner.train_dataloader)


def bare(epochs=4):
    """The same network, optimiser and precision in a plain loop over ready tensors: no data path, no framework."""
    cfg = Config.fromfile(CONFIGS / 'ce' / 'resnet20_cifar10-lt-mini-if100.py')
    model = MODELS.build(cfg.model).to(DEVICE)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=2e-3)
    images = torch.randn(1236, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels, seconds = torch.arange(1236, device=DEVICE) % 10, []
    for epoch in range(epochs):
        start = clock()
        for x, y in zip(images.split(128), labels.split(128)):
            with torch.autocast(DEVICE, dtype=torch.bfloat16):
                z = model.neck(model.backbone(x))[-1]
            loss = nn.functional.cross_entropy(model.head.fc(z.float()), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch:
            seconds.append(clock() - start)
    return seconds, 10


def measure_step(rounds=4):
    configs = {'ImageClassifier, CE': 'ce/resnet20_cifar10-lt-mini-if100.py',
               'ImageClassifier, CE + mixture': 'ce/resnet20_cifar10-lt-mini-if100_mixture.py',
               'AllNC without HyCon, P2P': 'allnc/resnet20_cifar10-lt-mini-if100_gbbn.py',
               'AllNC': 'allnc/resnet20_cifar10-lt-mini-if100.py'}
    seconds = {}
    for _ in range(rounds):
        for name, function in {'bare loop': bare, **{k: lambda c=c: train(c) for k, c in configs.items()}}.items():
            values, iterations = function()
            seconds.setdefault(name, []).extend(v / iterations for v in values)
    return [dict(loop=name, ms=round(1000 * float(np.median(values)), 1)) for name, values in seconds.items()]


def measure_breakdown(rounds=3, epochs=4):
    rows = {}
    for _ in range(rounds):
        for name, method in (('CE + mixture', 'ce/resnet20_cifar10-lt-mini-if100_mixture.py'),
                             ('AllNC', 'allnc/resnet20_cifar10-lt-mini-if100.py')):
            seconds, iterations = train(method, epochs, Breakdown())
            for part, value in seconds.items():
                rows.setdefault(part, {}).setdefault(name, []).append(value / iterations / (epochs - 1))
    rows = {part: {name: round(1000 * float(np.median(values)), 2) for name, values in found.items()}
            for part, found in rows.items()}
    return [{'part': part, **{f'{name}, ms': found.get(name, 0.0) for name in ('CE + mixture', 'AllNC')}}
            for part, found in sorted(rows.items(), key=lambda row: -row[1].get('AllNC', 0))]


def measure_precision(rounds=3):
    seconds = {}
    for _ in range(rounds):
        for wrapper, precision in (('OptimWrapper', 'float32'), ('BFloat16OptimWrapper', 'bfloat16')):
            for channels_last in (False, True):
                values, iterations = train('ce/resnet20_cifar10-lt-mini-if100.py', **{
                    'optim_wrapper.type': wrapper, 'data_preprocessor.channels_last': channels_last})
                seconds.setdefault((precision, channels_last), []).extend(v / iterations for v in values)
    return [dict(precision=precision, channels_last=channels_last, ms=round(1000 * float(np.median(values)), 1))
            for (precision, channels_last), values in seconds.items()]


def measure_compile(rounds=3):
    seconds = {}
    for _ in range(rounds):  # what was compiled in the first round is cached
        for method in ('ce', 'allnc'):
            for compiled in (False, True):
                torch._dynamo.reset()  # the limit of compilations is that of a process
                values, iterations = train(f'{method}/resnet20_cifar10-lt-mini-if100.py', compile=compiled)
                seconds.setdefault((method, compiled), []).extend(v / iterations for v in values)
    return [dict(method=method, compile=compiled, ms=round(1000 * float(np.median(values)), 1))
            for (method, compiled), values in seconds.items()]


def measure_classes():
    out = []
    for num_classes, dim, batch in ((10, 64, 256), (100, 128, 256), (1000, 2048, 64), (1000, 2048, 256),
                                    (1000, 2048, 1024), (8142, 2048, 256)):
        head = MODELS.build(dict(
            type='AllNCHead', num_classes=num_classes, in_channels=dim,
            hycon=dict(type='HyConLoss', positives=['mean'], loss_weight=0.05),
            p2p=dict(type='P2PLoss', target='etf' if num_classes <= dim + 1 else 'hinge', means_weight=0.02,
                     classifier_weight=0.1, cross_weight=0.02, max_classes=1024))).to(DEVICE)
        linear = MODELS.build(dict(type='LinearClsHead', num_classes=num_classes, in_channels=dim)).to(DEVICE)
        for loss in (head.loss_uniform, head.loss_module):
            loss.set_class_counts([1] * num_classes)
        z = torch.randn(batch, dim, device=DEVICE, requires_grad=True)
        soft = torch.eye(num_classes, device=DEVICE)[torch.arange(batch) % num_classes]

        def step(function, head=head, z=z, soft=soft):
            head.zero_grad()
            total = sum(v for k, v in function((z, )).items() if 'loss' in k)
            total.backward()

        contestants = {
            'linear': lambda linear=linear, soft=soft: step(
                lambda f: dict(loss=nn.functional.cross_entropy(linear.fc(f[-1]), soft))),
            'allnc': lambda head=head, soft=soft: step(lambda f: head.loss(f, [], soft_labels=soft))}
        seconds = take_turns(contestants, rounds=3 if num_classes > 1000 else 7)
        peak = torch.cuda.max_memory_allocated() if CUDA else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out.append(dict(K=num_classes, d=dim, features=batch, peak_mib=round(peak / 2**20),
                        **{f'{k}_ms': round(1000 * v, 2) for k, v in seconds.items()}))
    return out


def measure_inference(images=4):
    inputs = torch.randint(256, (images, 3, 180, 240), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    contestants = {}
    with DefaultScope.overwrite_default_scope('mmseg'), torch.no_grad():
        for name in ('CE', 'ETF', 'CeCo', 'AllNC'):
            cfg = Config.fromfile(CONFIGS / 'seg' / f'{camvid.STEM}{camvid.METHODS[name]}.py')
            model = MODELS.build(cfg.model).to(DEVICE).eval()
            batch = dict(inputs=list(inputs), data_samples=[
                SegDataSample(metainfo=dict(ori_shape=(180, 240), img_shape=(180, 240))) for _ in inputs])
            contestants[name] = lambda model=model, batch=batch: model.test_step(batch)
        seconds = take_turns(contestants, rounds=31)
    return [dict(training=name, ms_per_image=round(1000 * value / images, 2)) for name, value in seconds.items()]


PARTS = dict(data=measure_data, folders=measure_folders, step=measure_step, breakdown=measure_breakdown,
             precision=measure_precision, compile=measure_compile, classes=measure_classes,
             inference=measure_inference)


def run(parts):
    init_default_scope('mmpretrain')
    torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if CUDA else f'1 thread of {os.cpu_count()} cores, {platform.machine()}'
    for part in parts:
        start = time.time()
        record = dict(part=part, machine=machine, torch=torch.__version__, rows=PARTS[part]())
        record['minutes'] = round((time.time() - start) / 60, 1)
        with open(RESULTS, 'a') as file:
            file.write(json.dumps(record) + '\n')
    print(table())


def table():
    """The latest record of each part, as Markdown."""
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    latest = {record['part']: record for record in records}
    lines = []
    for part, record in ((part, latest[part]) for part in PARTS if part in latest):
        rows = [dict(row) for row in record['rows']]
        if part == 'data':
            for row in rows:
                row['ratio'] = f'{row["device"] / row["pipeline"]:.1f}'
            title = 'images per second'
        elif part == 'folders':
            title = 'views per CPU-second from JPEG files'
        elif part == 'step':
            runs = [{row['loop']: row['ms'] for row in r['rows']} for r in records
                    if (r['part'], r['machine']) == (part, record['machine'])]
            reference = runs[-1]
            for row in rows:
                row['images/s'] = round(128000 / row['ms'])
                row['to the bare loop'] = f'{row["ms"] / reference["bare loop"]:.2f}'
                row['to CE'] = f'{row["ms"] / reference["ImageClassifier, CE"]:.2f}'
                row['to CE + mixture'] = f'{row["ms"] / reference["ImageClassifier, CE + mixture"]:.2f}'
                ratios = [ms[row['loop']] / ms['ImageClassifier, CE + mixture'] for ms in runs]
                row[f'in {len(runs)} records'] = f'{min(ratios):.2f} to {max(ratios):.2f}'
            title = 'training iteration, 128 images passed, ResNet-20, bfloat16, channels_last'
        elif part == 'breakdown':
            title = 'parts of that iteration, each without those within it'
        elif part == 'precision':
            for row in rows:
                row['times as fast'] = f'{rows[0]["ms"] / row["ms"]:.2f}'
            title = 'training iteration of CE, 128 images passed, ResNet-20'
        elif part == 'compile':
            for plain, compiled in zip(rows[::2], rows[1::2]):
                plain['times as fast'], compiled['times as fast'] = '1.00', f'{plain["ms"] / compiled["ms"]:.2f}'
            title = 'training iteration with torch.compile and without, 128 images passed, ResNet-20, bfloat16'
        elif part == 'inference':
            for row in rows:
                row['to CE'] = f'{row["ms_per_image"] / rows[0]["ms_per_image"]:.3f}'
            title = 'segmentation of a frame of 240 x 180, DeepLabV3+ with ResNet-18 of half width'
        else:
            title = "AllNC's head beside a linear one with CE, on features alone; peak is that of the process"
        lines += [f'`{part}`: {title} ({record["machine"]}, torch {record["torch"]})', '',
                  '| ' + ' | '.join(rows[0]) + ' |', '| --- ' * len(rows[0]) + '|',
                  *('| ' + ' | '.join(str(value) for value in row.values()) + ' |' for row in rows), '']
    return '\n'.join(lines).rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    measure = commands.add_parser('run')
    measure.add_argument('parts', nargs='*', metavar='PART', help=f'{", ".join(PARTS)}; default: all')
    show = commands.add_parser('table')
    show.add_argument('--into', metavar='FILE', help='Markdown file with the marks of `speed`')
    args = parser.parse_args()
    if args.command == 'run':
        if unknown := set(args.parts) - set(PARTS):
            parser.error(f'unknown parts {sorted(unknown)}; there are {list(PARTS)}')
        run(args.parts or list(PARTS))
    elif args.into:
        markdown_tables.insert(args.into, 'speed', table())
    else:
        print(table())


if __name__ == '__main__':
    main()
