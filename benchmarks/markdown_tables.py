"""Where the benchmarks' tables go: between two marks of a Markdown file, so that numbers are never typed."""
from pathlib import Path


def insert(path, mark, text):
    """Write ``text`` between the marks <!-- MARK --> and <!-- /MARK --> of a Markdown file."""
    start, end = f'<!-- {mark} -->', f'<!-- /{mark} -->'
    before, _, rest = Path(path).read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f'{path} has no marks {start} and {end}; add them where the table belongs.')
    Path(path).write_text(f'{before}{start}\n{text}\n{end}{after}')
