#!/usr/bin/env python3
"""Check what the notebooks hold for a reader and for the site: stored results of a run without errors, alternative text for every
picture, imports in cells of their own, titles that name the module, a place in the sidebar. `--selftest` shows that each check can fail."""
import ast
import json
import re
import sys
import tempfile
from pathlib import Path

nbs = Path(__file__).resolve().parent.parent/'nbs'
aim = 200_000 # bytes of stored outputs a notebook; more is a hint, not a failure
columns = 12  # of a stored table; more is a hint: it scrolls in its own box
marks = {'export', 'exports', 'exporti', 'exec_doc'} # cells that the docs build runs, with the exported ones above them


def text(o): return o if isinstance(o, str) else ''.join(o)

def directives(s):
    "The leading `#|` lines of a cell: {'export': '', 'fig-cap:': 'Digits'}"
    lines = [l.strip()[2:].strip() for l in s.splitlines() if l.startswith('#|')]
    return {o.split()[0]:o[len(o.split()[0]):].strip() for o in lines if o}

def quoted(s):
    "The text of a YAML scalar in quotes, None where `s` is not one"
    if re.fullmatch(r"'([^']|'')+'", s): return s[1:-1].replace("''", "'")
    try: return json.loads(s) if s[:1]=='"' else None
    except ValueError: return None

def is_import(n): return isinstance(n, (ast.Import, ast.ImportFrom))

def mixed(s):
    "Does cell `s` import something and do something else too?"
    try: tree = ast.parse(re.sub(r'^\s*[%!].*', '', s, flags=re.M))
    except SyntaxError: return False
    return any(map(is_import, ast.walk(tree))) and not all(map(is_import, tree.body))

def html_pictures(s):
    "Pictures in HTML or Markdown text `s` that have no alternative text"
    tags = re.findall(r'<(?:img|video|svg)\b[^>]*>', s)
    return [o[:60] for o in tags if not re.search(r'(alt|aria-label)\s*=\s*["\'][^"\']{8,}', o)]

def shown(cell):
    "Is the code cell's output on the page?"
    d = directives(text(cell['source']))
    return 'hide' not in d and d.get('include:')!='false' and d.get('output:')!='false'

def picture_problems(cell):
    "What is missing for a reader who cannot see the pictures of `cell`"
    s = text(cell['source'])
    if cell['cell_type']=='markdown':
        yield from (f'no alternative text: {o}' for o in html_pictures(s))
        yield from (f'no alternative text: {o}' for o in re.findall(r'!\[\s*\]\([^)]*\)', s))
    if cell['cell_type']!='code': return
    data = [o.get('data', {}) for o in cell['outputs']]
    html = [p for d in data for p in html_pictures(text(d.get('text/html', '')))]
    if not any(k.startswith('image/') for d in data for k in d) and not html: return
    start = '\n'.join(l for l in s.splitlines() if not l.startswith('#|'))[:60]
    if not shown(cell): yield f'a hidden cell stores a picture: {start!r}'
    alt = quoted(directives(s).get('fig-alt:', ''))
    if alt is None or len(alt)<15: yield f'a picture needs a line #| fig-alt: "…" (one sentence, in quotes): {start!r}'

def link_problems(nb, fn):
    "Relative links and pictures in the Markdown of notebook `nb`, of file `fn`, that lead nowhere"
    for c in nb['cells']:
        if c['cell_type']!='markdown': continue
        prose = re.sub(r'```.*?```|`[^`\n]*`|\$[^$]*\$', '', text(c['source']), flags=re.S)
        for o in re.findall(r'\]\(([^)#\s]+)', prose) + re.findall(r'(?:src|href)="([^"#]+)', prose):
            if not re.match(r'[a-z]+:', o) and not (fn.parent/o).exists(): yield f'a link leads nowhere: {o}'

def problems(nb, name, fn=None):
    "What is wrong with notebook `nb`, a dict, of file `fn`"
    if fn: yield from (f'{name}: {o}' for o in link_problems(nb, fn))
    code = [c for c in nb['cells'] if c['cell_type']=='code']
    outs,source = [o for c in code for o in c['outputs']],[text(c['source']) for c in code]
    if code and not outs: yield f'{name}: no stored outputs. Run it from the top and save it'
    if any(o['output_type']=='error' for o in outs): yield f'{name}: a stored output is an error'
    for c in nb['cells']: yield from (f'{name}: {o}' for o in picture_problems(c))
    documented = any(directives(s).keys() & marks for s in source) or any('show_doc(' in s for s in source)
    for s in source if documented else ():
        d = directives(s)
        if not d.keys() & marks and d.get('eval:')!='false' and 'nbdev_export()' not in s and mixed(s):
            yield f'{name}: imports beside code, and the docs build runs this cell alone: {s[:60]!r}'
    exp = [d['default_exp'] for s in source if 'default_exp' in (d := directives(s))]
    start = next((text(c['source']).strip() for c in nb['cells'] if c['cell_type']=='markdown' and re.search('^# ', text(c['source']), re.M)), '')
    title = start.splitlines()[0] if start else ''
    if not title.startswith('# '): yield f'{name}: no title, a cell that begins with "# "'
    elif exp and f'ncml.{exp[0]}' not in title: yield f'{name}: the title needs the name of its module, "{title} (ncml.{exp[0]})"'
    if lost := [l for l in start.splitlines()[1:] if l.strip() and not l.startswith('> ')]:
        yield f'{name}: the site drops what follows title and subtitle in their cell; it needs a cell of its own: {lost[0][:60]!r}'

def hints(nb, name):
    "What is worth a look in notebook `nb`"
    outs = [o for c in nb['cells'] if c['cell_type']=='code' for o in c['outputs']]
    size = sum(len(json.dumps(o)) for o in outs)
    if size>aim: yield f'{name} stores {size//1000} kB of outputs, the aim is {aim//1000}'
    if any(o.get('name')=='stderr' for o in outs): yield f'{name} stores text written to stderr'
    rows = [r for o in outs for r in re.findall(r'<tr.*?</tr>', text(o.get('data', {}).get('text/html', '')), re.S)]
    widest = max((len(re.findall('<t[hd]', r)) for r in rows), default=0)
    if widest>columns: yield f'{name} stores a table of {widest} columns, more than {columns}'

def sidebar_problems(folder):
    "What is listed and does not exist, or exists and is not listed"
    listed = re.findall(r'[\w./]+\.ipynb', (folder/'sidebar.yml').read_text(encoding='utf-8'))
    there = {fn.relative_to(folder).as_posix() for fn in notebooks(folder)}
    for o in sorted(set(listed) ^ there): yield f'sidebar.yml and the notebooks disagree about {o}'
    for o in sorted({o for o in listed if listed.count(o)>1}): yield f'sidebar.yml lists {o} twice'

def notebooks(folder): return [fn for fn in sorted(folder.rglob('*.ipynb')) if '.ipynb_checkpoints' not in fn.parts]

def selftest():
    "A good notebook passes; with one fault each, it does not"
    def md(s): return dict(cell_type='markdown', source=s)
    def code(s, **data): return dict(cell_type='code', source=s, outputs=[dict(output_type='display_data', data=data or {'text/plain': '1'})])
    title,alt,png = '# Levels (ncml.levels)','#| fig-alt: "Sixteen digits in a row"\n',{'image/png': 'x'}
    good = [md(title), code('#| default_exp levels'), code('#| export\nimport torch'), code('import math'), code('def f():\n    return math.pi'),
        code(alt+'show()', **png), md('![A row of digits](a.png) <img src="a.png" alt="A row of digits">'), code('1')]
    faults = {
        'a picture needs': [code('show()', **png), code('#| fig-alt: Sixteen: digits\nshow()', **png), code('#| fig-alt: ""\nshow()', **png),
            code("#| fig-cap: 'Digits'\nshow()", **png), code('show()', **{'text/html': '<img src="data:x">'}), code('#| fig-alt: "a \\p b and more words"\nshow()', **png)],
        'a hidden cell': [code('#| hide\n'+alt+'show()', **png)],
        'no alternative text': [md('![](a.png)'), md('<img src="a.png">'), md('<img src="a.png" alt="">')],
        'imports beside code': [code('import sys\nsys.path.append(folder)'), code('#| hide\nx = 1\nfrom math import pi'), code('def f():\n    import math\n    return math')],
        'stored output is an error': [dict(code('1'), outputs=[dict(output_type='error')])]}
    def found(cells): return list(problems(dict(cells=cells), 'a.ipynb'))
    assert not found(good), found(good)
    for what,cells in faults.items():
        for c in cells: assert [o for o in found([*good, c]) if what in o] and len(found([*good, c]))==1, (what, c, found([*good, c]))
    assert 'drops what follows' in found([md(title+'\n\n> Of images\n\nThis chapter'), *good[1:]])[0] and not found([md(title+'\n\n> Of images'), *good[1:]])
    assert 'name of its module' in found([md('# Levels'), *good[1:]])[0] and 'no title' in found(good[1:])[0]
    assert 'no stored outputs' in found([md(title), dict(code('1'), outputs=[])])[0]
    assert not found([md('# Study'), code('import sys\nsys.path.append("x")')]) # nothing is documented, so nothing is run
    table = '<tr>' + '<td>1</td>'*13 + '</tr>'
    assert 'table of 13 columns' in [*hints(dict(cells=[code('table', **{'text/html': table})]), 'a.ipynb')][0]
    with tempfile.TemporaryDirectory() as tmp:
        for o in ('a', 'b'): (Path(tmp)/f'{o}.ipynb').write_text('{}')
        links = md('[a](a.ipynb) [b](b.ipynb#part) ![x](https://a.b/c.png) `[d](d)` [e](e.ipynb) ![f](images/f.png)')
        assert [*link_problems(dict(cells=[links]), Path(tmp)/'a.ipynb')]==[f'a link leads nowhere: {o}' for o in ('e.ipynb', 'images/f.png')]
        (Path(tmp)/'sidebar.yml').write_text('- a.ipynb\n- a.ipynb\n- c.ipynb\n')
        assert len([*sidebar_problems(Path(tmp))])==3
    print('each check of the notebooks can fail')

def main():
    "Print what is wrong and exit with 1, or print how many notebooks were read"
    if '--selftest' in sys.argv: return selftest()
    books = {fn.relative_to(nbs).as_posix():json.loads(fn.read_text(encoding='utf-8')) for fn in notebooks(nbs)}
    for name,nb in books.items(): print(*(f'hint: {o}\n' for o in hints(nb, name)), sep='', end='')
    bad = [p for name,nb in books.items() for p in problems(nb, name, nbs/name)] + [*sidebar_problems(nbs)] + ([] if books else ['there are no notebooks'])
    if bad: raise SystemExit('\n'.join(bad))
    print(len(books), 'notebooks')

if __name__=='__main__': main()
