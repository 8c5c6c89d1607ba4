"""What a trained classifier is worth beside the class means of its own features: ``CONFIG CHECKPOINT``.

Replaces the classifier by the means of the training features, without training, and reports the difference on the test
set. ``ncc`` is the nearest class mean in Euclidean distance, ``cmf`` the largest cosine with the mean of the unit
features (the class-mean-feature classifier). At neural collapse all three agree.

python tools/analysis_tools/class_mean_classifier.py CONFIG CHECKPOINT --save work_dirs/cmf.pth --classifier cmf

Any classifier of mmpretrain with a linear or cosine classifier. Means are taken in evaluation mode, without
augmentation. ``--save`` writes the model with the new classifier, and its config beside it.
"""
import argparse
import json
import os

import allnc_mm  # noqa: F401 isort: skip
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from allnc_mm.engine.launch import readable_errors
from allnc_mm.fileio import whole_file
from allnc_mm.visualization.class_mean_classifier import class_mean_table, evaluate_class_means, save_class_means
from allnc_mm.visualization.runs import find_run


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config, or the work_dir of a finished run')
    parser.add_argument('checkpoint', nargs='?', help='path of the checkpoint; default: the last one of the work_dir')
    parser.add_argument('--out', metavar='JSON', help='file for the numbers')
    parser.add_argument('--save', metavar='PTH', help='file for the model with the new classifier')
    parser.add_argument('--classifier', choices=['ncc', 'cmf'], default='cmf', help='that --save takes; default: cmf')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    args = parser.parse_args(argv)
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    MMLogger.get_instance('class_mean_classifier', log_level='WARNING')
    console = Console()
    if not console.is_terminal:
        console.width = 140
    with readable_errors():
        config, checkpoint = args.config, args.checkpoint
        if checkpoint is None:
            config, checkpoint, _ = find_run(config)
        with Progress(console=console, transient=True) as progress:
            result, rest = evaluate_class_means(config, checkpoint, None, args.cfg_options, progress)
        console.print(class_mean_table(result))
        if args.out:
            with whole_file(args.out) as part, open(part, 'w') as file:
                json.dump({k: {n: v if v == v else None for n, v in row.items()} for k, row in result.items()}, file)
        if args.save:
            written = save_class_means(args.save, args.classifier, **rest)
            console.print(f'Wrote {args.save} and {written}', soft_wrap=True, markup=False, highlight=False)


if __name__ == '__main__':
    main()
