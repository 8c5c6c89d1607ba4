"""Softmax codes that are found, with certificates, beside the published ones; and what P2P costs over K.

python benchmarks/softmax_code.py run [quick] [long] [large] [growth]   appends to results/softmax_code.jsonl
python benchmarks/softmax_code.py table [--into FILE]                   prints the tables from the latest records
python benchmarks/softmax_code.py plot                                  draws docs/images/softmax_code_growth.png

`quick`: a search of 60 seconds for each size; `long`: of --seconds, whose codes are written to allnc_mm/codes if they
are better than those there, where :func:`allnc_mm.geometry_cache.cached_softmax_code` takes them from. `large`: K=8142
with d=2048 and K=10000 with d=512, at once and improved for --seconds. `growth`: time and memory of code, bound and P2P
loss over K. rho is the one-vs-rest distance, its lower bound proven by one_vs_rest_distance.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import markdown_tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / 'results' / 'softmax_code.jsonl'
PICTURE = HERE.parent / 'docs' / 'images' / 'softmax_code_growth.png'
# (d, K): published rho (plotting notebook of the paper's authors)
PUBLISHED = {(10, 100): .61416, (20, 100): .8124, (30, 100): .8886, (10, 200): .5052, (20, 200): .7211,
             (30, 200): .8053}
LARGE = {(2048, 8142): None, (512, 10000): .79659}
STUDIES = ('quick', 'long', 'large', 'growth')
GROWTH = [128, 256, 512, 1024, 2048, 4096, 8142]


def record(**fields):
    fields.update(machine=f'{os.cpu_count()} cores, {platform.machine()}')
    with open(RESULTS, 'a') as file:
        file.write(json.dumps(fields) + '\n')
    print(fields, flush=True)


def rounded_down(value, digits=6):
    return int(value * 10**digits) / 10**digits


def resident(key):
    """Memory in use (VmRSS), or its peak (VmHWM), in MiB."""
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{key}:')[1].split()[0]) / 1024


def fresh_peak():
    """Let the peak start again from the memory in use, and return that (Linux)."""
    Path('/proc/self/clear_refs').write_text('5')
    return resident('VmRSS')


def search(study, d, k, seconds, keep):
    from allnc_mm.functional import max_cosine, one_vs_rest_distance, rattlers, softmax_code
    from allnc_mm.geometry_cache import SOLVER, dump_code, load_code
    start = time.monotonic()
    code = softmax_code(k, d, seconds=seconds)
    taken = time.monotonic() - start
    lower, upper, _ = one_vs_rest_distance(code)
    record(study=study, d=d, K=k, seconds=round(taken), rho=rounded_down(lower), gap=float(f'{upper - lower:.1g}'),
           tammes=rounded_down(1 - max_cosine(code)), rattlers=int(rattlers(code).sum()))
    if keep:
        path = HERE.parent / 'allnc_mm' / 'codes' / f'softmax_code_K{k}_d{d}_seed0_v{SOLVER}.npz'
        if not path.exists() or one_vs_rest_distance(load_code(path.read_bytes(), k, d)).lower < lower:
            path.write_bytes(dump_code(code))


def large(d, k, seconds):
    import torch

    from allnc_mm.functional import max_cosine, refine_code, softmax_code
    before, start = fresh_peak(), time.monotonic()
    code = softmax_code(k, d, dtype=torch.float32)
    taken = time.monotonic() - start
    fields = dict(study='large', d=d, K=k, seconds=round(taken, 1), rho=rounded_down(1 - max_cosine(code)))
    start = time.monotonic()
    finer = refine_code(code, seconds=seconds)
    fields.update(refined_seconds=round(time.monotonic() - start), refined=rounded_down(1 - max_cosine(finer)),
                  extra_mib=round(resident('VmHWM') - before))
    record(**fields)


def growth(k):
    """One size, in a process of its own."""
    import torch

    from allnc_mm.functional import one_vs_rest_lower_bounds, p2p_loss, softmax_code
    d, out = 2048 if k > 2048 else k // 4, {}
    x, y = (torch.randn(k, d, requires_grad=True) for _ in range(2))

    def measure(name, function):
        before, start = fresh_peak(), time.process_time()
        result = function()
        out[f'{name}_seconds'] = round(time.process_time() - start, 3)
        out[f'{name}_extra_mib'] = round(resident('VmHWM') - before)
        return result

    code = measure('code', lambda: softmax_code(k, d, restarts=0, dtype=torch.float32))
    measure('bound', lambda: one_vs_rest_lower_bounds(code))
    measure('p2p_etf', lambda: p2p_loss(x, y).backward())
    measure('p2p_code', lambda: p2p_loss(x, y, target=code).backward())
    measure('p2p_hinge', lambda: p2p_loss(x, y, target='hinge').backward())
    record(study='growth', d=d, K=k, **out)


def latest():
    out = {}
    for line in RESULTS.read_text().splitlines():
        r = json.loads(line)
        out[r['study'], r['d'], r['K']] = r
    return out


def codes_table():
    """Codes that were searched for, and the large ones."""
    records = latest()
    lines = ['| d | K | published | 60 s | long search (seconds) | 1 - max cos | rattlers | gap of the certificate |',
             '|---|---|---|---|---|---|---|---|']
    for (d, k), published in PUBLISHED.items():
        quick, long = records.get(('quick', d, k)), records.get(('long', d, k))
        if quick or long:
            best = max((r for r in (quick, long) if r), key=lambda r: r['rho'])
            cells = [d, k, published, quick['rho'] if quick else '-',
                     f'{long["rho"]} ({long["seconds"]})' if long else '-', best['tammes'], best['rattlers'],
                     best['gap']]
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    lines += ['', '| d | K | published | at once (seconds) | improved (seconds) |', '|---|---|---|---|---|']
    for (d, k), published in LARGE.items():
        if r := records.get(('large', d, k)):
            lines.append(f'| {d} | {k} | {published or "-"} | {r["rho"]} ({r["seconds"]}) | {r["refined"]} '
                         f'({r["refined_seconds"]}) |')
    return '\n'.join(lines)


def growth_table():
    """CPU seconds of one thread, and the peak of the memory above what was in use, in MiB, over K."""
    records = latest()
    names = ['code', 'bound', 'p2p_etf', 'p2p_code', 'p2p_hinge']
    lines = ['| K | d | ' + ' | '.join(f'`{n}`' for n in names) + ' |', '|' + '---|' * (2 + len(names))]
    for k in GROWTH:
        if r := next((r for (study, _, size), r in records.items() if (study, size) == ('growth', k)), None):
            cells = [f'{r[n + "_seconds"]} ({r[n + "_extra_mib"]})' for n in names]
            lines.append(f'| {k} | {r["d"]} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


TABLES = {'softmax-code': codes_table, 'softmax-growth': growth_table}


def plot():
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    points = sorted((r for (study, *_), r in latest().items() if study == 'growth'), key=lambda r: r['K'])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    labels = dict(code='code', bound='bound of rho', p2p_etf='P2P, simplex', p2p_code='P2P, code',
                  p2p_hinge='P2P, hinge')
    for (name, label), marker in zip(labels.items(), 'os^Dv'):
        for axis, unit in zip(axes, ('seconds', 'extra_mib')):
            axis.plot([r['K'] for r in points], [max(r[f'{name}_{unit}'], 1e-3) for r in points], marker=marker,
                      label=label)
    for axis, title in zip(axes, ('CPU seconds', 'extra memory, MiB')):
        axis.set(xscale='log', yscale='log', xlabel='classes K (d = K / 4, at most 2048)', title=title)
        axis.grid(alpha=.3)
    axes[1].set_ylim(bottom=1)
    axes[0].legend()
    figure.savefig(PICTURE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=['run', 'table', 'plot'])
    parser.add_argument('studies', nargs='*', metavar='STUDY', help='quick, long, large, growth; default: all')
    parser.add_argument('--seconds', type=int, default=600, help='of a long search; default: 600')
    parser.add_argument('--into', metavar='FILE', help='Markdown file with the marks of softmax-code or softmax-growth')
    parser.add_argument('--size', type=int, nargs=2, metavar=('D', 'K'), help='only this one')
    args = parser.parse_args()
    if unknown := set(args.studies) - set(STUDIES):
        parser.error(f'expected studies of {STUDIES}, but got {sorted(unknown)}')
    if args.action != 'run':
        if args.action == 'plot':
            return plot()
        if not args.into:
            return print(*(table() for table in TABLES.values()), sep='\n\n')
        page = Path(args.into).read_text()
        for mark in [mark for mark in TABLES if f'<!-- {mark} -->' in page] or TABLES:  # insert refuses a bare page
            markdown_tables.insert(args.into, mark, TABLES[mark]())
        return
    for study in args.studies or STUDIES:
        sizes = {'large': list(LARGE), 'growth': [(0, k) for k in GROWTH]}.get(study, list(PUBLISHED))
        for d, k in sizes if args.size is None else [tuple(args.size)]:
            if study == 'growth' and args.size is None:
                subprocess.run([sys.executable, __file__, 'run', 'growth', '--size', '0', str(k)], check=True)
            elif study == 'growth':
                growth(k)
            elif study == 'large':
                large(d, k, args.seconds)
            else:
                search(study, d, k, 60 if study == 'quick' else args.seconds, keep=study == 'long')


if __name__ == '__main__':
    main()
