"""Compare finished runs on the same data: a table, a picture and a JSON file.

python tools/analysis_tools/compare_runs.py work_dirs/ce work_dirs/allnc --out work_dirs/comparison --labels CE AllNC
"""
import argparse
import os

import allnc_mm  # noqa: F401 isort: skip
import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from allnc_mm.engine.launch import parse_groups, readable_errors
from allnc_mm.visualization.comparison import comparison_table, draw_comparison, evaluate_run, save_json


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work_dir of a finished run')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for comparison.png and comparison.json')
    parser.add_argument('--labels', nargs='+', metavar='LABEL', help='names of the runs; default: their folders')
    parser.add_argument('--groups', help='many, medium and few: A, B, or three sizes such as 4,3,3; default: those of '
                        'the LongTailMetric in the first run\'s config, or A')
    args = parser.parse_args(argv)
    if args.labels and len(args.labels) != len(args.work_dirs):
        parser.error(f'--labels needs one name for each of the {len(args.work_dirs)} runs, but got {len(args.labels)}')
    args.groups = parse_groups(parser, args.groups)
    return args


def main(argv=None):
    args = parse_args(argv)
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), 8))  # images of these sizes gain nothing from more
    MMLogger.get_instance('compare_runs', log_level='WARNING')  # the table says it all
    console = Console()
    if not console.is_terminal:
        console.width = 120
    with readable_errors():
        labels = args.labels or [os.path.basename(os.path.normpath(work_dir)) for work_dir in args.work_dirs]
        if len(set(labels)) < len(labels):
            labels = args.work_dirs
        runs = []
        with Progress(console=console, transient=True) as progress:
            for work_dir, label in zip(args.work_dirs, labels):
                first = runs[0] if runs else None  # its groups are those of all
                runs.append(evaluate_run(work_dir, label, args.groups, first, progress))
        os.makedirs(args.out, exist_ok=True)
        picture, numbers = (os.path.join(args.out, f'comparison.{kind}') for kind in ('png', 'json'))
        draw_comparison(runs, picture)
        save_json(runs, numbers)

    console.print(comparison_table(runs))
    lines = [('picture', picture), ('numbers', numbers)]
    for run in runs:
        lines += [(f'{run.label}: checkpoint', run.checkpoint), (f'{run.label}: log', run.log)]
    width = max(len(name) for name, _ in lines)
    for name, path in lines:
        console.print(f'{name:{width}}  {path}', soft_wrap=True, markup=False, highlight=False)


if __name__ == '__main__':
    main()
