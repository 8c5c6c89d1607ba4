"""Count the classes of a training set: a table, a picture, and a JSON that `num_per_class` settings accept as a path.

python tools/analysis_tools/class_stats.py configs/allnc/resnet20_digits-lt.py --out work_dirs/digits_stats

Images are counted; for segmentation labelled pixels, without those of `ignore_index`.
"""
import argparse
import os

import allnc_mm  # noqa: F401 isort: skip
from mmengine.config import DictAction
from rich.console import Console

from allnc_mm.engine.launch import parse_groups, readable_errors
from allnc_mm.visualization.class_stats import class_stats, draw_stats, save_stats, stats_table


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--out', metavar='DIR', help='folder for class_stats.png and class_stats.json; default: the '
                        'table alone')
    parser.add_argument('--groups', help='many, medium and few: A, B, or three sizes such as 4,3,3; default: A for '
                        'images, head, middle and tail by their share of all pixels')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_dataloader.dataset.data_root=...')
    args = parser.parse_args(argv)
    args.groups = parse_groups(parser, args.groups)
    return args


def main(argv=None):
    args = parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console.width = 120
    with readable_errors():
        stats = class_stats(args.config, args.groups, args.cfg_options)
        files = {}
        if args.out:
            os.makedirs(args.out, exist_ok=True)
            files = {name: os.path.join(args.out, f'class_stats.{kind}')
                     for name, kind in (('picture', 'png'), ('numbers', 'json'))}
            draw_stats(stats, files['picture'])
            save_stats(stats, files['numbers'])
    console.print(stats_table(stats))
    for name, path in files.items():
        console.print(f'{name}  {path}', soft_wrap=True, markup=False, highlight=False)


if __name__ == '__main__':
    main()
