#!/usr/bin/env python3
"""Do draws drift as they are drawn? Bits of test images and of a model's own draws, row by row, under the model itself and under another (Figure 1 of the paper).

    python tools/drift.py runs/claims/small-ml-0,runs/claims/small-vp-0 --judge runs/claims/small-ml-1 --out nbs/results/drift/8.json

A model that fits needs as many bits for its draws as for test images, in every row. `drift` is the rise of (draws - test) from the first quarter of the rows to the last, `end`
the difference in the last quarter, in bits per dimension, each with its standard error over images. `step` is the control: every pixel drawn from the model after the
real pixels before it, so that no error can compound."""
import json
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from ncml.commands.shell import command_line
from ncml.learner import load_run, made_with
from ncml.loss import bits_per_dim
from ncml.sampling import sample_ncml
from ncml.sde import to_unit

def read(file):
    with np.load(file) as f: return torch.from_numpy(f['x_test']).permute(0, 3, 1, 2).contiguous()

@torch.no_grad()
def row_bits(model, u, bs=50): # levels (n,c,h,w) -> (n,h), bits per dimension at t = 0
    x = to_unit(u, model.n_bits)
    lp = torch.cat([model.dist(o, o.new_zeros(len(o))).log_prob(o) for o in x.split(bs)]) # (n,h,w)
    return torch.stack([bits_per_dim(lp[:,i].sum(1), x[:,:,i:i+1]) for i in range(lp.shape[1])], 1).double()

@torch.no_grad()
def step_bits(model, u, seed, bs=50):
    "`row_bits` of pixels drawn one at a time after real ones"
    x,g,found = to_unit(u, model.n_bits),torch.Generator().manual_seed(seed),[]
    for o in x.split(bs):
        p = model.dist(o, o.new_zeros(len(o)))
        lp = p.log_prob(p.sample(p.noise(g)))
        found.append(torch.stack([bits_per_dim(lp[:,i].sum(1), o[:,:,i:i+1]) for i in range(lp.shape[1])], 1).double())
    return torch.cat(found)

def rise(draws, test): # (n,h) twice
    k = max(1, draws.shape[1]//4)
    def less(f): a,b = f(draws),f(test); return (a.mean()-b.mean()).item(),(a.var()/len(a)+b.var()/len(b)).sqrt().item()
    (drift,stderr),(end,end_stderr) = less(lambda b: b[:,-k:].mean(1)-b[:,:k].mean(1)),less(lambda b: b[:,-k:].mean(1))
    return dict(drift=drift, stderr=stderr, end=end, end_stderr=end_stderr, offset=(draws.mean()-test.mean()).item())

def mean_rows(b): return dict(mean=[round(o, 4) for o in b.mean(0).tolist()], stderr=[round(o, 4) for o in (b.std(0)/len(b)**.5).tolist()])

@call_parse
def main(
    folders:str, # folders of finished NCPN jobs, with commas between
    test:str='', # .npz file with `x_test` (n,h,w,c), where the run does not name its images
    judge:str='', # folder of another, whose model scores all draws too
    out:str='drift.json', # file of the result
    n:int=500, # draws, and most test images
    steps:int=10, # of the refinement; 0: only Tweedie's, -1: no draws in two parts
    seed:int=0,
):
    "Measure drift"
    folders,judge = [Path(o) for o in folders.split(',')],judge and Path(judge)
    other,rows = load_run(judge/'run').model if judge else None,{}
    for folder in folders:
        run = load_run(folder/'run')
        u,noise = run.images('test')[0] if not test else read(test),run.config['noise']
        u = u[:n]
        sets = dict(test=u)
        for name,t in dict(clean=0., samples=noise['t_max']).items():
            if t and (noise['p_clean']==1 or steps<0): continue
            sets[name] = sample_ncml(run.model, run.sde, (n,*u.shape[1:]), t, None, steps, sampler=run.model.sampler, seed=seed, bs=50)
        row = dict(weights=run.config['weights_sha256'][:16], size=u.shape[-1], n=len(u), noise=noise)
        for who,model in dict(own=run.model, judge=other).items():
            if model is None: continue
            bits = {k:row_bits(model, o) for k,o in sets.items()} | (dict(step=step_bits(model, u, seed)) if who=='own' else {})
            row[who] = {k:mean_rows(b) | ({} if k=='test' else rise(b, bits['test'])) for k,b in bits.items()}
        rows[folder.name] = row
        print(folder.name, {w:{k:(round(o['drift'], 3), round(o['stderr'], 3), round(o['offset'], 3)) for k,o in row[w].items() if k!='test'} for w in ('own','judge') if w in row}, flush=True)
    words = dict(test=Path(test).name, folders=','.join(o.name for o in folders), judge=judge.name if judge else '', out=Path(out).name, n=n, steps=steps, seed=seed)
    result = dict(command=command_line(main, words).replace('main', 'python tools/drift.py', 1), judge=words['judge'], rows=rows) | made_with()
    Path(out).write_text(json.dumps(result, indent=1)+'\n')
