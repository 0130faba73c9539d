#!/usr/bin/env python3
"""Check what is stored in the notebooks: results from a run without errors, and a place for each in the sidebar."""
import json
import re
from pathlib import Path

nbs = Path(__file__).resolve().parent.parent/'nbs'
aim = 200_000 # bytes of stored outputs a notebook; more is a hint, not a failure


def problems(fn):
    "What is wrong with the stored outputs of notebook `fn`"
    cells = [c for c in json.loads(fn.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    outs = [o for c in cells for o in c['outputs']]
    size,name = sum(len(json.dumps(o)) for o in outs),fn.relative_to(nbs).as_posix()
    if size > aim: print(f'hint: {name} stores {size//1000} kB of outputs, the aim is {aim//1000}')
    if cells and not outs: yield f'{name}: no stored outputs. Run it from the top and save it'
    if any(o['output_type'] == 'error' for o in outs): yield f'{name}: a stored output is an error'
    if any(o.get('name') == 'stderr' for o in outs): print(f'hint: {name} stores text written to stderr')

def main():
    "Print what is wrong and exit with 1, or print how many notebooks were read"
    fns = [fn for fn in sorted(nbs.rglob('*.ipynb')) if '.ipynb_checkpoints' not in fn.parts]
    bad = [p for fn in fns for p in problems(fn)] or ([] if fns else ['there are no notebooks'])
    listed = set(re.findall(r'[\w./]+\.ipynb', (nbs/'sidebar.yml').read_text(encoding='utf-8')))
    bad += [f'nbs/sidebar.yml and nbs/ disagree about {o}' for o in sorted(listed ^ {fn.relative_to(nbs).as_posix() for fn in fns})]
    if bad: raise SystemExit('\n'.join(bad))
    print(len(fns), 'notebooks')

if __name__ == '__main__': main()
