#!/usr/bin/env python3
"""Size, order and words of the notebooks, held to limits: how much is exported, how long cells and lines are, how much a reader of the
core must read, who imports a private name, which doors lead from the core to an appendix. Prints a table; exits with 1 over a limit."""
import ast
import json
import re
import statistics as st
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
# figure: limit (the aim for characters is 260,000 and for the median 500; checks of folders, files, faults and tensors added 70,000,
# exact resume, several processes, Muon, sight and sharing 25,000, steps and draws that wait for no GPU 9,000,
# score networks and ScoreFlow 22,000, their residual and evaluation 8,000, adapters 4,500, flows, vectors, tables and sound 11,000)
limits = {
    'exported characters': 424_000, 'exported lines': 7_060, 'lines over 120 characters': 0,
    'characters a cell, median': 570, 'characters a cell, 90%': 1_300, 'characters a cell, longest': 4_500,
    'raise …Error': 130, 'core notebooks': 9, 'core cells': 475, 'core words': 12_000,
    'private names imported': 0, 'doors from the core to an appendix': 6, 'imports mixed with code': 0, 'words to avoid': 0}
doors = {'training.muon.Muon', 'fast.layers.speed_up', 'fast.cached.cached_sampler', 'data.loaders.get_dls', 'fast.layers.compile_blocks', 'models.flows.factories'}
avoid = re.compile(r"\b(told(?! apart|'|\()|refused|refuses|brought|gone on with|the way down|double_(?!\.))")


def text(o): return o if isinstance(o, str) else ''.join(o)

def is_export(s): return re.search(r'^#\|\s*exports?\b', s, re.M)

def body(s): return [l for l in s.splitlines() if l.strip() and not l.startswith('#|')]

def parse(s):
    "Syntax tree of a cell; None where it holds a magic or a shell line"
    try: return ast.parse(s)
    except SyntaxError: return None

def is_import(n): return isinstance(n, (ast.Import, ast.ImportFrom))

def only_imports(s): return (t := parse(s)) is not None and t.body and all(is_import(n) for n in t.body)

def private(tree):
    "Names with a leading underscore that `tree` imports from ncml"
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').split('.')[0]=='ncml'):
            yield from (a.name for a in n.names if a.name.startswith('_') and not a.name.startswith('__'))

def read(fn): return [(c['cell_type'], text(c['source'])) for c in json.loads(fn.read_text(encoding='utf-8'))['cells']]

def figures():
    "All figures, and a line for each place that has to be mended"
    books = {fn:read(fn) for fn in sorted(nbs.rglob('*.ipynb')) if '.ipynb_checkpoints' not in fn.parts}
    core = {fn:o for fn,o in books.items() if re.match(r'\d\d_', fn.name) and fn.parent==nbs}
    code = [(fn.relative_to(nbs), s) for fn,o in books.items() for k,s in o if k=='code']
    exported = [(fn, body(s)) for fn,s in code if is_export(s) and not only_imports(s)]
    sizes,lines = sorted(len('\n'.join(b)) for _,b in exported),[(fn, l) for fn,b in exported for l in b]
    trees = [(fn, t) for fn,s in code if (t := parse(s))] + [(p.relative_to(root), ast.parse(p.read_text(encoding='utf-8'))) for p in sorted((root/'tools').glob('*.py'))]
    names = [(fn, f'imports {k}') for fn,t in trees for k in private(t)]
    mixed = [(fn, f'imports beside code: {body(s)[0][:60]}') for fn,s in code
             if is_export(s) and (t := parse(s)) and any(map(is_import, t.body)) and not all(map(is_import, t.body))]
    opened = {(str(fn), k) for fn,o in core.items() for kind,s in o if kind=='code' and is_export(s) for k in re.findall(r"appendix\('([\w.]+)'\)", s)}
    words = [(fn.relative_to(nbs), f'{w!r} in: {s[max(0, m.start()-30):m.end()+20]!r}') for fn,o in books.items() for k,s in o
             if k=='markdown' or is_export(s) for m in avoid.finditer(s) for w in [m.group()]]
    wide = [(fn, l.strip()[:80]) for fn,l in lines if len(l)>120]
    got = {
        'exported characters': sum(sizes), 'exported lines': len(lines), 'lines over 120 characters': len(wide),
        'characters a cell, median': round(st.median(sizes)), 'characters a cell, 90%': sizes[int(.9*(len(sizes)-1))], 'characters a cell, longest': sizes[-1],
        'raise …Error': sum(len(re.findall(r'raise \w*Error', l)) for _,l in lines), 'core notebooks': len(core),
        'core cells': sum(map(len, core.values())), 'core words': sum(len(s.split()) for o in core.values() for k,s in o if k=='markdown'),
        'private names imported': len(names), 'doors from the core to an appendix': len(opened), 'imports mixed with code': len(mixed), 'words to avoid': len(words)}
    return got,wide + names + mixed + words + [(fn, f'a door that is not known: {k}') for fn,k in sorted(opened) if k not in doors]

def main():
    got,places = figures()
    for k,v in got.items(): print(f"{k:36} {v:>9,} {'of at most' if v<=limits[k] else 'OVER'} {limits[k]:,}")
    print(*(f'{fn}: {what}' for fn,what in places), sep='\n')
    if any(v>limits[k] for k,v in got.items()): raise SystemExit('over a limit')

if __name__ == '__main__': main()
