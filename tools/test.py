"""Evaluate a checkpoint of a classification or segmentation config: ``python tools/test.py CONFIG CHECKPOINT``."""
import argparse
import os

import mmengine
from mmengine.evaluator import DumpResults

from allnc_mm.engine.launch import add_common_arguments, build_runner, leave_process_group, load_config, readable_errors


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Test (and evaluate) a model')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    add_common_arguments(parser)
    parser.add_argument('--out', help='file for the predictions or metrics (.pkl; metrics also .json or .yaml)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], default='pred', help='what --out holds')
    return parser.parse_args(argv)


def main():
    os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # no checkpoint runs code, whoever loads it
    args = parse_args()
    with readable_errors():
        cfg = load_config(args)
        cfg.load_from = args.checkpoint
        if args.amp:
            cfg.test_cfg.fp16 = True
        runner = build_runner(cfg)
        if args.out and args.out_item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
        if args.out and args.out_item == 'metrics' and runner.rank == 0:
            mmengine.dump(metrics, args.out)
        leave_process_group()


if __name__ == '__main__':
    main()
