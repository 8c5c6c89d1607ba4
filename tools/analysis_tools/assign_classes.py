"""Which class gets which vector of a fixed code, so that similar classes are neighbours: ``CONFIG CHECKPOINT``.

Similarity is that of the class means of a checkpoint (cosines of centred means of the training images), or a K x K
array of your own:

python tools/analysis_tools/assign_classes.py work_dirs/ce --dim 10 --out assignment.json
python tools/analysis_tools/assign_classes.py --similarity confusion.npy --dim 10 --out assignment.json

The code is the softmax code of that many dimensions, as ``SoftmaxCodeHead(in_channels=10)`` has it. Its argument
``assignment`` takes the list that is written.
"""
import argparse
import json
import os

import allnc_mm  # noqa: F401 isort: skip
import numpy as np
import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import Progress

from allnc_mm.engine.launch import readable_errors
from allnc_mm.fileio import whole_file
from allnc_mm.functional import ASSIGNMENTS, assign_classes
from allnc_mm.geometry_cache import cached_softmax_code
from allnc_mm.visualization.class_mean_classifier import class_similarity
from allnc_mm.visualization.runs import find_run


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='path of the config, or the work_dir of a finished run')
    parser.add_argument('checkpoint', nargs='?', help='path of the checkpoint; default: the last one of the work_dir')
    parser.add_argument('--similarity', metavar='NPY', help='a K x K array instead of a checkpoint')
    parser.add_argument('--dim', type=int, required=True, help='dimension of the code')
    parser.add_argument('--seed', type=int, default=0, help='of the code; default: 0')
    parser.add_argument('--mode', choices=ASSIGNMENTS, default='similar', help='default: similar')
    parser.add_argument('--out', metavar='JSON', help='file for the assignment')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    args = parser.parse_args(argv)
    if (args.config is None) == (args.similarity is None):
        parser.error('give either CONFIG and CHECKPOINT, or --similarity')
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    MMLogger.get_instance('assign_classes', log_level='WARNING')
    console = Console()
    with readable_errors():
        if args.similarity:
            try:
                similarity = torch.from_numpy(np.load(args.similarity, allow_pickle=False)).double()
            except (ValueError, EOFError, TypeError) as error:
                parser.error(f'{args.similarity} holds no array of numbers ({error}); write it with numpy.save')
        else:
            config, checkpoint = args.config, args.checkpoint
            if checkpoint is None:
                config, checkpoint, _ = find_run(config)
            with Progress(console=console, transient=True) as progress:
                similarity = class_similarity(config, checkpoint, args.cfg_options, progress)
        code = cached_softmax_code(len(similarity), args.dim, seed=args.seed)
        order = assign_classes(similarity, code, args.mode, seed=args.seed).tolist()

        def value(rows):
            return float((similarity * (code[rows] @ code[rows].T)).fill_diagonal_(0).sum())

        console.print(f'sum of similarity x cosine: {value(order):.4f} ({args.mode}), '
                      f'{value(list(range(len(order)))):.4f} in the order of the classes')
        if args.out:
            with whole_file(args.out) as part, open(part, 'w') as file:
                json.dump(order, file)
            console.print(f'Wrote {args.out}', soft_wrap=True, markup=False, highlight=False)
        else:
            console.print(f'assignment={order}', soft_wrap=True, markup=False, highlight=False)


if __name__ == '__main__':
    main()
