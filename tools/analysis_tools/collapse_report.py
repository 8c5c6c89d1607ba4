"""Report of neural collapse for one or several checkpoints: a web page that needs nothing else, pictures and numbers.

python tools/analysis_tools/collapse_report.py CONFIG CHECKPOINT --out DIR
python tools/analysis_tools/collapse_report.py CONFIG CHECKPOINT --compare CONFIG2 CHECKPOINT2 --labels A B --out DIR

Any classifier of mmpretrain with a linear classifier will do. DIR/report.html is the page, DIR/report.json the numbers.
"""
import argparse
import os

import allnc_mm  # noqa: F401 isort: skip
import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from allnc_mm.engine.launch import parse_groups, readable_errors
from allnc_mm.visualization.comparison import draw_comparison
from allnc_mm.visualization.readings import report_table
from allnc_mm.visualization.report import num_pictures, write_report
from allnc_mm.visualization.runs import choose_classes, evaluate_checkpoint


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--compare', nargs='+', default=[], metavar='PATH',
                        help='CONFIG2 CHECKPOINT2 ... of further runs on the same data, up to seven')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the report')
    parser.add_argument('--labels', nargs='+', metavar='LABEL', help='names of the runs; default: the folders of the '
                        'checkpoints')
    parser.add_argument('--classes', nargs='+', metavar='CLASS', help='names or numbers of the classes whose features '
                        'are drawn, in a plane up to three, else in space; default: the largest and the two rarest')
    parser.add_argument('--groups', help='many, medium and few: A, B, or three sizes such as 4,3,3; default: those of '
                        'the LongTailMetric in the first config, or A')
    parser.add_argument('--story', metavar='FILE', help='also write one picture of all runs (PNG, below 200 KB): '
                        'accuracy of each class and angle heat maps beside each other')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of all configs, e.g. test_dataloader.batch_size=64')
    args = parser.parse_args(argv)
    if len(args.compare) % 2 or len(args.compare) > 14:
        parser.error('--compare needs pairs CONFIG CHECKPOINT, up to seven, but got '
                     f'{len(args.compare)} path{"s" * (len(args.compare) != 1)}')
    args.runs = [(args.config, args.checkpoint), *zip(args.compare[::2], args.compare[1::2])]
    if args.labels and (len(args.labels) != len(args.runs) or len(set(args.labels)) < len(args.labels)):
        parser.error(f'--labels needs one name for each of the {len(args.runs)} runs, all different, but got '
                     f'{" ".join(args.labels)}')
    if args.story and not args.story.endswith('.png'):
        parser.error(f'--story must be a .png file, but got {args.story}')
    args.groups = parse_groups(parser, args.groups)
    return args


def default_labels(checkpoints):
    """Names of checkpoints: their folders; with their files, or as paths, where that does not tell them apart."""
    folders = [os.path.basename(os.path.dirname(os.path.abspath(path))) for path in checkpoints]
    files = [f'{folder} {os.path.splitext(os.path.basename(path))[0]}' for folder, path in zip(folders, checkpoints)]
    for labels in (folders, files, checkpoints):
        if len(set(labels)) == len(labels):
            return labels
    return [f'{i}: {label}' for i, label in enumerate(files, 1)]


def main(argv=None):
    args = parse_args(argv)
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), 8))  # images of these sizes gain nothing from more
    MMLogger.get_instance('collapse_report', log_level='WARNING')  # the table says it all
    console = Console()
    if not console.is_terminal:
        console.width = 120
    labels = args.labels or default_labels([checkpoint for _, checkpoint in args.runs])
    with readable_errors(), Progress(console=console, transient=True) as progress:
        runs = []
        for (config, checkpoint), label in zip(args.runs, labels):
            first = runs[0] if runs else None  # its groups and classes are those of all
            runs.append(evaluate_checkpoint(config, checkpoint, label, args.groups, first, progress, args.cfg_options,
                                            args.classes))
        classes = None
        if args.classes:
            classes = choose_classes(args.classes, runs[0].classes, runs[0].num_classes)
        task = progress.add_task('drawing', total=num_pictures(runs))
        paths = write_report(runs, args.out, classes, lambda: progress.advance(task))
        if args.story:
            draw_comparison(runs, args.story)
            paths['picture'] = args.story
    console.print(report_table(runs))
    for name, path in paths.items():
        console.print(f'{name:8} {path}', soft_wrap=True, markup=False, highlight=False)


if __name__ == '__main__':
    main()
