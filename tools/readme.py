#!/usr/bin/env python3
"""Make `README.md` from `nbs/index.ipynb`, without quarto and from stored outputs; `--check` says whether it is up to date.

Markdown cells are copied. Code cells become fenced blocks followed by their stored text output; `hide`, `export` and
`include: false` drop a cell, `echo: false` its code, `output: false` its output. Relative links are made to point into
`nbs/`, so that a picture in `nbs/images/` shows both on the site and in the README."""
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
src, dst = root/'nbs'/'index.ipynb', root/'README.md'
head = '<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook. -->\n\n'
dropped = {'hide', 'export', 'exporti', 'default_exp'}


def text(o):
    "A notebook stores text as a string or as a list of lines"
    return o if isinstance(o, str) else ''.join(o)

def relink(md):
    "Let relative links and pictures in `md` point into `nbs/`"
    return re.sub(r'(\]\(|src="|href=")(?![a-z]+:|[#/])', r'\1nbs/', md)

def output(o):
    "The text of one stored output `o` as markdown"
    if o['output_type'] == 'stream': return '' if o['name'] == 'stderr' else f"```text\n{text(o['text']).rstrip()}\n```"
    data = o.get('data', {})
    if any(k.startswith('image/') for k in data):
        raise SystemExit(f'{src.name}: a cell shows a picture. Save it in nbs/images/ and show it in a markdown cell.')
    if 'text/markdown' in data: return relink(text(data['text/markdown']))
    return f"```text\n{text(data['text/plain']).rstrip()}\n```" if 'text/plain' in data else ''

def blocks(nb):
    "The parts of the README, in order"
    for c in nb['cells']:
        lines = text(c['source']).splitlines()
        if c['cell_type'] == 'markdown': yield relink('\n'.join(lines))
        if c['cell_type'] != 'code': continue
        marks = dict((l[2:].replace(':', ' ').split() + [''])[:2] for l in lines if l.startswith('#|'))
        if marks.keys() & dropped or marks.get('include') == 'false': continue
        code = '\n'.join(l for l in lines if not l.startswith('#|')).strip()
        if code and marks.get('echo') != 'false': yield f'```python\n{code}\n```'
        if marks.get('output') != 'false': yield from map(output, c['outputs'])

def main():
    "Write the README, or compare it"
    if not src.exists(): raise SystemExit(f'{src.relative_to(root)} is missing')
    new = head + '\n\n'.join(b.strip() for b in blocks(json.loads(src.read_text(encoding='utf-8'))) if b.strip()) + '\n'
    if '--check' not in sys.argv: return dst.write_text(new, encoding='utf-8')
    if not dst.exists() or dst.read_text(encoding='utf-8') != new:
        raise SystemExit('README.md is not what nbs/index.ipynb says: run `python tools/readme.py`')

if __name__ == '__main__': main()
