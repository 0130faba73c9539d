#!/usr/bin/env python3
"""Build the site in a copy of this project, so that nothing here changes. Every notebook is processed as nbdev does it, all that fail are
listed, and `nbdev_docs` must leave every tracked file as it was. A do-nothing `quarto` stands in; with `--render FOLDER` the real one
renders, and the site is put into FOLDER. `--selftest` shows that the checks can fail. Needs the development requirements and git."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
find = {'out of distribution': '08_ood', 'sanity test': '07_sanity', 'bits per dimension': '04_loss'} # words one searches for, and the page
# nbdev asks for README.md in its own way; the stand-in then writes one, so that a settings.ini that allows it is noticed
stand_in = '#!/bin/sh\nmkdir -p _docs\ncase "$*" in *README.md*) echo replaced > _docs/README.md;; esac\n'


def git(folder, *args):
    out = subprocess.run(['git', '-C', str(folder), '-c', 'user.name=site', '-c', 'user.email=site@localhost', *args], capture_output=True, text=True, check=True)
    return out.stdout

def copy(project, dst):
    "What git knows of `project`, and what it does not ignore, in a repository of its own"
    for o in sorted(set(git(project, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0'))):
        if not o or not (project/o).exists(): continue
        (dst/o).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project/o, dst/o, follow_symlinks=False)
    git(dst, 'init', '-q')
    git(dst, 'add', '-A')
    git(dst, 'commit', '-qm', 'copy')

def process(folder):
    "Process the notebooks of `folder` one by one; a line for each that fails"
    os.chdir(folder)
    sys.path[0] = str(folder) # instead of tools/, where a notebook's import would find the scripts
    import warnings
    warnings.filterwarnings('ignore', 'Found cells containing imports') # tools/notebooks.py lists them
    from nbdev.config import get_config
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb
    nbs = get_config().nbs_path
    for fn in sorted(nbs.rglob('*.ipynb')):
        name,dst = fn.relative_to(nbs),folder/'_proc'/fn.relative_to(nbs)
        dst.parent.mkdir(parents=True, exist_ok=True)
        try: exec_nb(fn, dst, FilterDefaults)
        except Exception as e: yield f'{name}: {e}\n  because of {type(e.__cause__ or e).__name__}: {e.__cause__ or e}'

def text(o): return o if isinstance(o, str) else ''.join(o)

def not_found(folder):
    "Words that nobody finds on the page that is about them; the site's search wants them as they are typed"
    for words,name in find.items():
        fn = folder/'_proc'/f'{name}.ipynb'
        if fn.exists() and words not in ' '.join(text(c['source']) for c in json.loads(fn.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='markdown').lower():
            yield f'{name}: no sentence with the words "{words}", so the search of the site does not find the page'

def build(project, render=None):
    "All that is wrong with the site of `project`"
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp).resolve()
        folder = tmp/'copy'
        folder.mkdir()
        copy(project, folder)
        try: bad = [*process(folder)]
        finally: os.chdir(root)
        print(len([*(folder/'_proc').rglob('*.ipynb')]), 'notebooks processed')
        if bad: return bad # nbdev_docs would stop at the first
        bad = [*not_found(folder)]
        if not render:
            (tmp/'bin').mkdir()
            (tmp/'bin'/'quarto').write_text(stand_in)
            (tmp/'bin'/'quarto').chmod(0o755)
        path = os.pathsep.join([str(tmp/'bin'), str(Path(sys.executable).parent), os.environ.get('PATH', '')])
        rc = subprocess.run(['nbdev_docs', '--n_workers', '0'], cwd=folder, env=dict(os.environ, PATH=path, PYTHONPATH=str(folder))).returncode
        if rc: bad.append(f'nbdev_docs: exit status {rc}')
        elif (url := re.search('repo-url: "(.*)"', (folder/'nbs'/'nbdev.yml').read_text())[1]) not in (folder/'nbs'/'_quarto.yml').read_text():
            bad.append(f'_quarto.yml: no link to the repository of settings.ini, {url}')
        bad += [f'nbdev_docs changed a tracked file: {o}' for o in git(folder, 'status', '--porcelain').splitlines()]
        if render and not rc: shutil.copytree(folder/'_docs', render, dirs_exist_ok=True)
        return bad

def selftest():
    "A small project passes; with one fault each, it does not"
    def nb(*cells):
        def cell(s): return dict(cell_type='markdown', metadata={}, source=s) if s[0]=='#' and s[1]!='|' else dict(cell_type='code', metadata={}, execution_count=None, outputs=[], source=s)
        return json.dumps(dict(cells=list(map(cell, cells)), metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4, nbformat_minor=5))
    good = ('# Levels', '# Some are out of distribution', '#| default_exp levels', '#| export\nimport math', '#| export\ndef half(): return math.pi/2', 'import json', 'half()')
    settings = (root/'settings.ini').read_text(encoding='utf-8')
    def lines(cells, settings=settings):
        with tempfile.TemporaryDirectory() as tmp:
            tmp = Path(tmp)
            for o in ('ncml', 'nbs'): (tmp/o).mkdir()
            for o,s in {'settings.ini': settings, '.gitignore': (root/'.gitignore').read_text(encoding='utf-8'), 'README.md': 'as it was\n', 'ncml/__init__.py': '__version__ = "0.0.1"\n',
                'ncml/levels.py': '__all__ = ["half"]\n', 'nbs/_quarto.yml': (root/'_quarto.yml').read_text(encoding='utf-8'), 'nbs/sidebar.yml': '', 'nbs/index.ipynb': nb('# A project'), 'nbs/08_ood.ipynb': nb(*cells)}.items():
                (tmp/o).write_text(s)
            git(tmp, 'init', '-q')
            subprocess.run(['nbdev_export'], cwd=tmp, check=True, capture_output=True, env=dict(os.environ, PYTHONPATH=str(tmp), PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])))
            os.utime(tmp/'README.md', (0, 0)) # older than the notebook
            o = subprocess.run([sys.executable, __file__, str(tmp)], capture_output=True, text=True)
            return o.returncode,o.stdout+o.stderr
    faults = {
        'NameError': lambda: lines((*good, 'import sys\nfolder.append(1)')),
        'ModuleNotFoundError': lambda: lines((*good, 'from readme import blocks')),
        'does not find the page': lambda: lines((good[0], '# Some are out-of-distribution', *good[2:])),
        'no link to the repository': lambda: lines(good, settings.replace('user = ', 'user = other-')),
        'changed a tracked file:  M README.md': lambda: lines(good, settings.replace('readme_nb', 'other_key'))}
    rc,out = lines(good)
    assert rc==0, out
    for what,f in faults.items():
        rc,out = f()
        assert rc==1 and what in out, (what, out)
    print('each check of the site can fail')

def main():
    "Print what is wrong and exit with 1"
    args = sys.argv[1:]
    if '--selftest' in args: return selftest()
    render = Path(args.pop(args.index('--render')+1)).resolve() if '--render' in args else None
    if render and not shutil.which('quarto'): raise SystemExit('--render: need quarto on PATH (https://quarto.org)')
    folders = [o for o in args if o!='--render']
    bad = build(Path(folders[0]).resolve() if folders else root, render)
    if bad: raise SystemExit('\n'.join(bad))

if __name__=='__main__': main()
