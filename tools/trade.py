#!/usr/bin/env python3
"""Quality of a run's images against start, solver and evaluations of the two-part sampler: `tools/trade.py --help`.

Writes a JSON file after each row; the same command resumes a file that was cut off, another one adds solvers, seeds or starts to it."""
import json
import math
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import torch
from fastcore.script import call_parse
from fastprogress.fastprogress import progress_bar
from matplotlib.ticker import NullFormatter
from ncml.data.loaders import get_dls, take
from ncml.instruments.quality import accuracy, compare_sets, fingerprint, get_features, train_features
from ncml.learner import load_run, made_with
from ncml.loss import bpd, evaluating
from ncml.sampling import CountNFE, refine_batches, refine_grid
from ncml.sde import image_generators, t_floor, to_levels, to_unit

key = ('model','levels','seed','solver','n_steps') # of a row
note = 'comparable only with the same feature network (fingerprint) and the same n'


class Draws:
    "Draws from p_t for one seed, to be refined again and again from the same noise"
    def __init__(self, model, sde, shape, t, y=None, seed=0, bs=100):
        self.model,self.sde,self.t,self.y,self.bs = model,sde,t,y,bs
        self.gens,start = image_generators(seed, shape[0]),time.process_time()
        self.noisy = model.sampler(shape, t, y, generators=self.gens, bs=bs)
        self.seconds,self.states = time.process_time()-start,[g.get_state() for g in self.gens]

    @property
    def levels(self): return to_levels(self.noisy, self.model.n_bits).cpu() # the unrefined draws, rounded

    def refined(self, solver='heun', n_steps=10, grid='quadratic'):
        "Refined levels, evaluations of the score for an image, and seconds of CPU time"
        ts,model = refine_grid(self.model, self.sde, self.t, n_steps, grid),CountNFE(self.model)
        for g,s in zip(self.gens, self.states, strict=True): g.set_state(s)
        start = time.process_time()
        u = refine_batches(model, self.sde, self.noisy, ts, self.y, solver, self.gens, self.bs).cpu()
        return u,model.nfe//math.ceil(len(u)/self.bs),time.process_time()-start

class Judge:
    "Measures sets of `n` images: distance to training images, and bits under `model`"
    def __init__(self, model, net, u_ref, n=None):
        self.model,self.net,self.ref,self.n,self.shape = model,net,get_features(net, u_ref),n or len(u_ref),tuple(u_ref.shape[1:])

    def __call__(self, u, y=None, groups=0): # levels (n,c,h,w), classes -> distance, bpd, and stderr if there are `groups`
        o = compare_sets(get_features(self.net, u), self.ref, self.n, groups=groups)
        return dict(distance=o['distance'], bpd=self.bits(u, y)) | (dict(stderr=o['stderr']) if groups else {})

    def bits(self, u, y=None):
        "Mean bits per dimension at t = 0"
        device = next(self.model.parameters()).device
        parts = zip(u.split(100), [None]*len(u) if y is None else y.split(100), strict=False)
        with torch.no_grad(), evaluating(self.model):
            b = [bpd(self.model, to_unit(o.to(device), self.model.n_bits), 0., None if c is None else c.to(device)).cpu() for o,c in parts]
        return torch.cat(b).mean().item()

def jobs(t, t_stop, solvers, steps):
    "Solvers and steps at a start"
    if t==0: return [('none', 0)]
    return [('tweedie', 0)] + ([] if t<=t_stop else [(s,k) for s in solvers for k in sorted(steps) if k>0])

def too_many(rows, k, max_nfe):
    "Would row `k` cost more than `max_nfe`, by what fewer steps took?"
    *same,n_steps = k
    less = [r for r in rows if [r[o] for o in key[:-1]]==same and 0<r['n_steps']<n_steps and r['nfe']]
    return max_nfe is not None and any(1+(r['nfe']-1)/r['n_steps']*n_steps>max_nfe for r in less)

def one_row(judge, d, before, solver, n_steps, grid):
    "Measures of one refinement of `d`"
    row = dict(before=before['distance'], bpd_before=before['bpd'], draw_seconds=d.seconds)
    if d.t==0: return row | dict(distance=before['distance'], bpd=before['bpd'], nfe=0, refine_seconds=0.)
    try: u,nfe,seconds = d.refined(solver if n_steps else 'heun', n_steps, grid)
    except FloatingPointError as e: return row | dict(distance=None, bpd=None, nfe=None, refine_seconds=None, failed=str(e))
    return row | judge(u, d.y) | dict(nfe=nfe, refine_seconds=seconds)

def quality_map(judge, sde, starts, solvers, steps, seeds, y=None, model=None, name='model', grid='quadratic', max_nfe=None, bs=100,
                rows=None, after_row=None, progress=False):
    "Rows of quality against start (levels of noise), solver and steps; `rows` of an earlier map are kept"
    model,rows = model or judge.model,[] if rows is None else rows
    times = {v:min(sde.t_at_levels(v, model.n_bits), model.t_max) if v else 0. for v in starts}
    have = {tuple(r[k] for k in key) for r in rows}
    todo = {(v,s):[j for j in jobs(times[v], t_floor(sde, model.n_bits), solvers, steps) if (name,v,s,*j) not in have] for s in seeds for v in starts}
    todo = {k:o for k,o in todo.items() if o}
    for (v,s),left in progress_bar(todo.items()) if progress else todo.items():
        d = Draws(model, sde, (judge.n,*judge.shape), times[v], y, s, bs)
        before = judge(d.levels, d.y)
        for solver,n_steps in left:
            k = (name, v, s, solver, n_steps)
            if too_many(rows, k, max_nfe): continue
            rows.append(dict(zip(key, k, strict=True), t=times[v], n=judge.n, **one_row(judge, d, before, solver, n_steps, grid)))
            if after_row: after_row(rows)
    return rows

def map_table(rows, seeds=None):
    "Means over seeds, with standard errors: a row for each model, start, solver and number of steps"
    o = pd.DataFrame([r for r in rows if r['distance'] is not None and (seeds is None or r['seed'] in seeds)])
    o = o.assign(gain=o.distance-o.before, bits_gain=o.bpd-o.bpd_before, cost=o.refine_seconds/o.draw_seconds)
    names = ('before','distance','gain','bpd_before','bpd','bits_gain')
    def both(g, n): return {n:g[n].mean(), f'{n}_err':g[n].sem()}
    def one(g): return pd.Series(dict(nfe=g.nfe.mean(), seeds=len(g)) | {k:v for n in names for k,v in both(g, n).items()} | dict(cost=g.cost.median()))
    return o.groupby(['model','levels','solver','n_steps'], sort=False)[[*names,'nfe','cost']].apply(one).reset_index()

def line(ax, o, x, y, label, **kw): ax.errorbar(o[x], o[y], o[f'{y}_err'].fillna(0), marker='o', ms=3, lw=1, capsize=2, label=label, **kw)

def by_solver(ax, o, colours):
    "Distance against evaluations at one start"
    ax.axhline(o.before.iloc[0], color='0.5', ls='--', lw=1, label='unrefined')
    for s,g in o[o.solver!='tweedie'].groupby('solver', sort=False): line(ax, pd.concat([o[o.solver=='tweedie'], g]), 'nfe', 'distance', s, color=colours[s])
    ax.set_xscale('log')
    ax.set_xticks([k for k in (1,2,5,10,20,50,100) if k<=2*o.nfe.max()], minor=False)
    ax.xaxis.set_major_formatter('{x:g}')
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel='evaluations of the score', ylabel='distance', title=f'start at {o.levels.iloc[0]:g} levels')

def by_start(ax, o, y, n_steps, colours):
    "`y` against the start, unrefined and refined with so many steps at most"
    first,b = o.drop_duplicates('levels').sort_values('levels'),dict(distance='before', bpd='bpd_before')[y]
    line(ax, first, 'levels', b, 'unrefined', color='0.5', ls='--')
    for s,g in o[o.solver!='none'].groupby('solver', sort=False):
        g = g[g.n_steps==g.n_steps[g.n_steps<=n_steps].max()].sort_values('levels')
        if len(g)>1: line(ax, g, 'levels', y, s if s=='tweedie' else f'{s}, {g.n_steps.iloc[0]} steps', color=colours[s])
    ax.set(xlabel='start, levels of noise', ylabel=dict(distance='distance', bpd='bits per dimension at t = 0')[y])

def plot_map(table, levels=None, floor=None, test_bpd=None, n_steps=10):
    "Distance against evaluations at one start, and distance and bits against the start; dotted: test images"
    names = [s for s in table.solver.unique() if s!='none']
    colours = dict(zip(names, [f'C{i}' for i in range(len(names))], strict=True))
    fig,(left,mid,right) = plt.subplots(1, 3, figsize=(10, 3), dpi=80, layout='constrained')
    by_solver(left, table[table.levels==(table.levels.max() if levels is None else levels)], colours)
    for ax,y in ((mid,'distance'), (right,'bpd')): by_start(ax, table, y, n_steps, colours)
    for ax,v in ((left,floor), (mid,floor), (right,test_bpd)):
        if v is not None: ax.axhline(v, color='k', ls=':', lw=1, label='test images')
        ax.legend(fontsize=6)
    plt.close(fig) # or a notebook would show it twice
    return fig

def numbers(text, kind=float): return [kind(o) for o in text.split(',')]

def load(out, head):
    "The content of `out`, if it was made with the same head, or a new result"
    if not out.exists(): return dict(head, commands=[], rows=[])
    old = json.loads(out.read_text(encoding='utf-8'))
    for k,v in head.items():
        if old.get(k)!=v: raise SystemExit(f'out: need a file made with the same {k}, got {out.name}; give another name')
    return old

def save(out, result):
    "In one step, so that a crash leaves the last state"
    part = out.with_name(out.name+'.partial')
    part.write_text(json.dumps(result, indent=1)+'\n', encoding='utf-8')
    part.replace(out)

@call_parse
def main(
    run:str, # A run folder
    ml:str=None, # A run trained by maximum likelihood, whose clean draws are measured too
    starts:str='0,.25,.5,.75,1,1.5', # Levels of noise, with commas between
    solvers:str='heun,em', # Names, with commas between
    steps:str='0,1,2,5,10', # Steps of the solver, with commas between
    seeds:str='0,1,2', # With commas between; each has its own draws
    n:int=None, # Images in each set, default as many as there are test images
    max_nfe:float=None, # Leave out what would take more evaluations of the score
    grid:str='quadratic', # Of the solver's steps
    bs:int=100, # Images at a time
    feature_steps:int=600, # Of the feature network's training
    out:Path=Path('map.json'), # File to write, or to resume
    device:str='cpu',
):
    r = load_run(run, device)
    model,sde,config = r.model,r.sde,r.config
    other = load_run(ml, device) if ml else None
    d = config['data']
    dls = get_dls(d['source'], n_bits=model.n_bits, size=d['size'], channels=d['channels'], seed=d['seed'], root=d['root'], device=device)
    train,(u,y) = dls.train_ds,take(list(dls.loaders)[-1].dataset, n, d['seed'])
    net = train_features(dls, feature_steps)
    judge,cond = Judge(model, net, train.u, len(u)),y if model.n_classes else None
    floor = judge(u, cond, groups=20)
    runs = dict(run=Path(run).name, weights=config['weights_sha256'][:16], ml=ml and Path(ml).name, ml_weights=other and other.config['weights_sha256'][:16])
    head = dict(note=note, config=dict(n=judge.n, grid=grid, bs=bs, data=d['source'], **runs), **made_with(device),
        features=dict(recipe=net.recipe, test_accuracy=accuracy(net, u, y), fingerprint=fingerprint(net)),
        floor=dict(distance=floor['distance'], stderr=floor['stderr']), test_bpd=floor['bpd'])
    result = load(out, head)
    result['commands'].append(dict(command=shlex.join(['python', 'tools/trade.py', *(Path(o).name if Path(o).is_absolute() else o for o in sys.argv[1:])]),
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d')))
    each = dict(solvers=solvers.split(','), steps=numbers(steps, int), seeds=numbers(seeds, int))
    more = dict(y=cond, grid=grid, max_nfe=max_nfe, bs=bs, rows=result['rows'], after_row=lambda rows: save(out, result), progress=sys.stdout.isatty())
    quality_map(judge, sde, numbers(starts), **each, name=Path(run).name, **more)
    if other: quality_map(judge, sde, [0.], **each, model=other.model, name=Path(ml).name, **more)
    save(out, result)
    print(map_table(result['rows']).round(3).to_string(index=False))
