"""Imbalanced segmentation on real CamVid: every method from scratch, several seeds, equal image budget, last iteration.

python benchmarks/camvid.py run [--only NAME ...] [--jobs 2] [--device auto]   trains what is not done yet
python benchmarks/camvid.py table [--into FILE]                                prints the table from the logs
python benchmarks/camvid.py pictures                                           draws frames with rare classes

DeepLabV3+ with a ResNet-18 of half width, 240 x 180, 1000 iterations of 8 crops: the configs
configs/seg/deeplabv3plus_r18_camvid-mini*.py. A run that was killed resumes from its last checkpoint; a finished one is
a line in results/camvid.jsonl, with the metrics of the validation and of the test split. Choices are made on validation
(--cfg-options with --results FILE, so that trials stay out of the table); the table and the pictures show test.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import markdown_tables
from protocols import finished

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / 'results' / 'camvid.jsonl'
STEM = 'deeplabv3plus_r18_camvid-mini'
METHODS = {  # name: suffix of the config
    'CE': '',
    'weighted CE': '_weighted',
    'balanced softmax': '_bs',
    'ETF': '_etf',
    'CeCo': '_ceco',
    'CeCo, frozen': '_ceco-frozen',
    'P2P alone': '_p2p',
    'HyCon alone': '_hycon',
    'GBBN alone': '_gbbn',
    'AllNC': '_allnc',
}
COLUMNS = ('mIoU', 'mIoU_head', 'mIoU_middle', 'mIoU_tail', 'mAcc_tail', 'nc1', 'std_cos_means', 'std_cos_classifier',
           'tail_cosine')
LOCK = Lock()


def slug(name, seed):
    """Folder of a run."""
    return ''.join(c if c.isalnum() else '_' for c in name) + f'_seed{seed}'


def cuda(args):
    """Whether the runs go to the GPU."""
    if args.device == 'auto':
        import torch
        return torch.cuda.is_available()
    return args.device == 'cuda'


def train(job, args):
    """Train one job in a process of its own, evaluate it in another, and append its record."""
    name, seed = job
    config = ROOT / 'configs' / 'seg' / f'{STEM}{METHODS[name]}.py'
    work_dir = Path(args.work_dirs).resolve() / slug(name, seed)
    work_dir.mkdir(parents=True, exist_ok=True)
    options = [f'randomness.seed={seed}', 'default_hooks.checkpoint.max_keep_ckpts=1',
               'default_hooks.logger.interval=100']
    if args.data_root:
        options += [f'{loader}_dataloader.dataset.data_root={args.data_root}' for loader in ('train', 'val', 'test')]
    if args.workers:
        options += [f'train_dataloader.num_workers={args.workers}', 'train_dataloader.persistent_workers=True']
    env = dict(os.environ, OMP_NUM_THREADS='1')
    if not args.cuda:
        env['CUDA_VISIBLE_DEVICES'] = ''
    resumed, minutes = any(work_dir.glob('iter_*.pth')), []
    with open(work_dir / 'driver.log', 'a') as log:
        for command in (
            [ROOT / 'tools/train.py', config, '--work-dir', work_dir, '--resume', '--no-validate',
             '--cfg-options', *options, *args.cfg_options],
            [__file__, 'evaluate', work_dir]):
            start = time.time()
            if subprocess.run([sys.executable, *map(str, command)], env=env, stdout=log, stderr=log).returncode:
                print(f'{job}: failed, see {work_dir}/driver.log', flush=True)
                return False
            minutes.append((time.time() - start) / 60)
    record = dict(name=name, seed=seed, config=str(config.relative_to(ROOT)), options=args.cfg_options,
                  minutes=None if resumed else round(minutes[0], 1), jobs=args.jobs,
                  machine=f'{os.cpu_count()} cores, {platform.machine()}',
                  **json.loads((work_dir / 'evaluation.json').read_text()))
    with LOCK:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with open(args.results, 'a') as file:
            file.write(json.dumps(record) + '\n')
    print(f'{job}: val {record["val"]["mIoU"]:.2f} tail {record["val"]["mIoU_tail"]:.2f}, test '
          f'{record["test"]["mIoU"]:.2f} tail {record["test"]["mIoU_tail"]:.2f}, {record["minutes"] or "?"} min',
          flush=True)
    return True


def evaluate(work_dir):
    """Metrics of the last checkpoint on val and test to evaluation.json, predictions on test to predictions.npz."""
    import allnc_mm  # noqa: F401 isort: skip
    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.evaluator import Evaluator
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner, load_checkpoint
    from mmseg.registry import MODELS

    from allnc_mm.engine.launch import latest_checkpoint
    configs = list(work_dir.glob('*.py'))
    checkpoint = latest_checkpoint(str(work_dir))
    if len(configs) != 1 or checkpoint is None:
        raise SystemExit(f'{work_dir} holds {len(configs)} configs and {"a" if checkpoint else "no"} checkpoint; it '
                         'must be the folder of one run.')
    cfg = Config.fromfile(configs[0])
    init_default_scope('mmseg')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = MODELS.build(cfg.model).to(device).eval()
    load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    out = dict(device=torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu')

    for split in ('val', 'test'):
        # --no-validate has taken the loader of val out of the config
        dataset = dict(cfg.test_dataloader.dataset, split=split)
        loader = Runner.build_dataloader(dict(cfg.test_dataloader, dataset=dataset, batch_size=4))
        evaluator = Evaluator([dict(type='LongTailIoUMetric'), dict(type='PixelCollapseMetric')])
        evaluator.dataset_meta = loader.dataset.metainfo
        iou, collapse = evaluator.metrics
        collapse.attach(model)
        maps = []
        for batch in loader:
            with torch.no_grad():
                samples = model.test_step(batch)
            maps += [sample.pred_sem_seg.data[0].byte().cpu().numpy() for sample in samples]
            evaluator.process(data_samples=samples, data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
        out[split] = {key.removeprefix('collapse/'): round(float(value), 4) for key, value in metrics.items()}
        out[split]['IoU'] = [round(float(value), 2) for value in iou.per_class['IoU']]
    out['classes'] = list(loader.dataset.metainfo['classes'])
    out['num_per_class'] = list(loader.dataset.metainfo['num_per_class'])
    np.savez_compressed(work_dir / 'predictions.npz', test=np.stack(maps))
    (work_dir / 'evaluation.json').write_text(json.dumps(out))


def table(path):
    """Mean and standard deviation over seeds, as Markdown: test, the choice criterion on val, and IoU by class."""
    import numpy as np
    records = finished(path).values()
    rows = {name: [r for r in records if r['name'] == name] for name in METHODS}
    rows = {name: found for name, found in rows.items() if found}

    def cell(values, digits=1):
        spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
        return f'{np.mean(values):.{digits}f}{spread}'

    def digits(column):
        return 1 if column.startswith('m') else 2 if column == 'nc1' else 3

    lines = ['CamVid test, last iteration, mean ± standard deviation over seeds', '',
             '| method | seeds | ' + ' | '.join(COLUMNS) + ' | val mIoU | val mIoU_tail | minutes |',
             '| --- ' * (len(COLUMNS) + 5) + '|']
    for name, found in rows.items():
        cells = [cell([r['test'][c] for r in found], digits(c)) for c in COLUMNS]
        cells += [cell([r['val'][c] for r in found]) for c in ('mIoU', 'mIoU_tail')]
        minutes = [r['minutes'] for r in found if r['minutes'] is not None]
        cells.append(f'{np.mean(minutes):.1f}' if minutes else '')
        lines.append(f'| {name} | {len(found)} | ' + ' | '.join(cells) + ' |')
    if rows:
        first = next(iter(rows.values()))[0]
        counts = np.array(first['num_per_class'])
        order = np.argsort(-counts)
        names = [f'{first["classes"][k]} {100 * counts[k] / counts.sum():.1f} %' for k in order]
        lines += ['', 'IoU by class on test, with the share of the training pixels', '',
                  '| method | ' + ' | '.join(names) + ' |', '| --- ' * (len(names) + 1) + '|']
        for name, found in rows.items():
            mean = np.mean([r['test']['IoU'] for r in found], axis=0)
            lines.append(f'| {name} | ' + ' | '.join(f'{mean[k]:.1f}' for k in order) + ' |')
    return '\n'.join(lines)


def choose(counts, names, amount):
    """Frames of the test split with the largest areas of the rarest classes, at most one of a sequence and class."""
    import numpy as np
    totals = counts.sum(0)
    chosen = []
    for k in [k for k in np.argsort(totals) if totals[k]] * amount:
        sequences = {names[i].split('_')[0] for i in chosen}
        fresh = [i for i in np.argsort(-counts[:, k]) if i not in chosen and counts[i, k]]
        fresh = [i for i in fresh if names[i].split('_')[0] not in sequences] or fresh
        chosen += fresh[:1]
        if len(chosen) >= amount:
            break
    return chosen[:amount]


def pictures(args):
    """Frame, truth and predictions side by side, for frames with rare classes."""
    import allnc_mm  # noqa: F401 isort: skip
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from allnc_mm.segmentation.datasets import CamVid
    from allnc_mm.visualization.figures import save_png
    width, height = 240, 180
    dataset = CamVid(args.data_root or 'data/camvid', split='test', memory_size=(width, height))
    classes, palette = dataset.metainfo['classes'], np.array([*dataset.metainfo['palette'], [0, 0, 0]], dtype=np.uint8)
    frames = [dataset.get_data_info(i) for i in range(len(dataset))]
    truth = np.stack([np.minimum(frame['gt_seg_map'], len(classes)) for frame in frames])
    counts = np.stack([np.bincount(labels.ravel(), minlength=len(palette))[:-1] for labels in truth])
    columns = [('truth', truth)]
    for name in args.only or ('CE', 'AllNC'):
        path = Path(args.work_dirs) / slug(name, args.seeds[0]) / 'predictions.npz'
        if not path.exists():
            raise SystemExit(f'{path} is missing; train it with: python {sys.argv[0]} run --only "{name}" --seeds '
                             f'{args.seeds[0]}')
        # void is black in the truth alone: predictions there are neither right nor wrong
        columns.append((name, np.load(path, allow_pickle=False)['test']))
    rows = choose(counts, [Path(frame['img_path']).name for frame in frames], 3)
    shape = len(rows), len(columns) + 1
    figure = Figure(figsize=(2.4 * shape[1], 1.8 * shape[0] + 0.9), layout='constrained')
    axes = figure.subplots(*shape, squeeze=False)
    for row, index in zip(axes, rows):
        row[0].imshow(frames[index]['img'][..., ::-1])
        for axis, (_, maps) in zip(row[1:], columns):
            axis.imshow(palette[maps[index]], interpolation='nearest')
        for axis in row:
            axis.set_axis_off()
    for axis, title in zip(axes[0], ['frame', *(name for name, _ in columns)]):
        axis.set_title(title, fontsize=10)
    patches = [Patch(color=color / 255, label=label) for color, label in zip(palette, [*classes, 'void'])]
    figure.legend(handles=patches, loc='outside lower center', ncols=6, fontsize=8, frameon=False)
    save_png(figure, args.out, dpi=100, max_bytes=200_000)
    print(f'{args.out}: frames {", ".join(Path(frames[i]["img_path"]).name for i in rows)}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run, show, draw, one = (commands.add_parser(name) for name in ('run', 'table', 'pictures', 'evaluate'))
    for command in (run, draw):
        command.add_argument('--only', nargs='+', choices=METHODS, metavar='NAME', help='methods; default: all (run), '
                             'CE and AllNC (pictures)')
        command.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='pictures: the first one')
        command.add_argument('--data-root', help='default: that of the configs, data/camvid')
        command.add_argument('--work-dirs', default='work_dirs/camvid')
    for command in (run, show):
        command.add_argument('--results', type=Path, default=RESULTS, help='file of the finished runs')
    run.add_argument('--jobs', type=int, default=2, help='runs at a time, one thread each')
    run.add_argument('--workers', type=int, default=0, help='loader processes of each run')
    run.add_argument('--device', choices=['auto', 'cuda', 'cpu'], default='auto', help='auto: the GPU if there is one')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for trials; with --results and '
                     '--work-dirs')
    show.add_argument('--into', metavar='FILE', help='Markdown file with the marks')
    draw.add_argument('--out', default=str(ROOT / 'docs' / 'images' / 'camvid.png'))
    one.add_argument('work_dir', type=Path)
    args = parser.parse_args()
    if args.command == 'table' and args.into:
        markdown_tables.insert(args.into, 'camvid', table(args.results))
    elif args.command == 'table':
        print(table(args.results))
    elif args.command == 'evaluate':
        evaluate(args.work_dir)
    elif args.command == 'pictures':
        pictures(args)
    else:
        if args.cfg_options and (args.results == RESULTS or args.work_dirs == run.get_default('work_dirs')):
            raise SystemExit('--cfg-options is for trials: give --results FILE and --work-dirs FOLDER, so that they '
                             'stay out of the table and of its runs.')
        args.cuda = cuda(args)
        done = finished(args.results)
        jobs = [(name, seed) for seed in args.seeds for name in args.only or METHODS if (name, seed) not in done]
        with ThreadPoolExecutor(args.jobs) as pool:
            if not all(list(pool.map(lambda job: train(job, args), jobs))):
                raise SystemExit(1)


if __name__ == '__main__':
    main()
