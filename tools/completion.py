#!/usr/bin/env python3
"""Complete test images by an NCML and an ML run, top half known or all but a box, and write what came out: `tools/completion.py --help`."""
import csv
import json
import shlex
import sys
from pathlib import Path
import torch
from fastcore.script import call_parse
from fastprogress.fastprogress import progress_bar
from ncml.instruments.complete import around_box, complete, conditional_bpd, raster_prefix
from ncml.learner import load_run, made_with


def apart(draws, known):
    "Mean distance of two completions of an image over unknown pixels, in levels; for draws of the true distribution it is their mean distance from the truth"
    v = draws[...,~known].double().flatten(-2)
    return torch.stack([(v[i]-v[j]).norm(dim=1) for i in range(len(v)) for j in range(i)]).mean(0)
def energy_score(draws, u, known):
    """Mean distance of completions `draws` (k,n,c,h,w) from the truth `u` (n,c,h,w) over unknown pixels, less half of their mean distance
    from each other, in levels; smaller is better (Gneiting & Raftery 2007)"""
    v,x = (o[...,~known].double().flatten(-2) for o in (draws, u))
    return (v-x).norm(dim=2).mean(0) - apart(draws, known)/2

def mean_se(v): return dict(mean=v.mean().item(), se=(v.std()/len(v)**.5).item())
def short(v): return [round(o, 4) for o in v.tolist()]

def one_row(run, judges, u, known, levels, n_resample, n_steps, n_draws, seed):
    "Completions `(k,n,c,h,w)` in one way, and their scores, one for each image: bits are the mean over its draws"
    t = run.sde.t_at_levels(levels, run.model.n_bits) if levels else 0.
    draws = torch.stack([complete(run.model, u, known, run.sde, t, n_steps=n_steps, n_resample=n_resample, seed=seed+i) for i in range(n_draws)]).cpu()
    k,scores = known.flatten(),dict(energy=short(energy_score(draws, u, known)), apart=short(apart(draws, known)))
    if (k[1:] & ~k[:-1]).any(): return draws,scores # no raster prefix
    bits = {f'bpd_{k}':short(torch.stack([conditional_bpd(o.model, d, known) for d in draws]).mean(0)) for k,o in judges.items()}
    return draws,scores | bits

def history(run):
    "Bpd of the validation images after each epoch, if the folder has it"
    f = Path(run)/'history.csv'
    return [round(float(o['bpd']), 4) for o in csv.DictReader(f.read_text().splitlines())] if f.exists() else None

@call_parse
def main(
    ncml:Path, # Run folder of `ncml_train`
    ml:Path, # One of `ncml_train --objective ml`, on the same data
    out:Path, # JSON file to write
    starts:str='0.5,1.5', # Noise where the draws for refinement start, in levels
    rounds:str='1,5', # Values of `n_resample`
    n:int=100, # Test images to complete, the first ones; the conditional bpd is of all
    n_steps:int=5, # Steps of the solver
    n_draws:int=4, # Completions of each image, 2 or more
    n_show:int=8, # Images to keep as pictures
    seed:int=0,
):
    runs = dict(ncml=load_run(ncml), ml=load_run(ml))
    a,b = (r.config['data'] for r in runs.values())
    if a!=b: raise SystemExit(f'ml: need a run on the data of {ncml.name}, got another')
    starts,rounds = [float(o) for o in starts.split(',')],[int(o) for o in rounds.split(',')]
    u,_ = runs['ncml'].images('test')
    (h,w),some = u.shape[2:],u[:n]
    masks = dict(half=raster_prefix(h, w, h//2*w), box=around_box(h, w, (h//4, 3*h//4), (w//4, 3*w//4)))
    true = {k:conditional_bpd(r.model, u, masks['half']) for k,r in runs.items()}
    ways = [('half','ml',0,1),('half','ncml',0,1)] + [(m,'ncml',s,r) for m in masks for s in starts for r in rounds]
    rows = []
    for mask,k,levels,r in (progress_bar(ways) if sys.stdout.isatty() else ways):
        draws,scores = one_row(runs[k], runs, some, masks[mask], levels, r, n_steps, n_draws, seed)
        rows.append(dict(mask=mask, model=k, levels=levels, n_resample=r, **scores, images=draws[0,:n_show].tolist()))
    bpds = dict({k:mean_se(v) for k,v in true.items()}, ncml_minus_ml=mean_se(true['ncml']-true['ml']), n=len(u), first={k:short(v[:n]) for k,v in true.items()})
    config = dict(starts=starts, rounds=rounds, n=n, n_steps=n_steps, n_draws=n_draws, n_show=n_show, seed=seed)
    trained = {k:dict(weights_sha256=r.config['weights_sha256'], training={o:r.config['training'][o] for o in ('objective','seed','epochs','seconds')}) for k,r in runs.items()}
    result = dict(command=shlex.join(['python', 'tools/completion.py', *(Path(o).name if Path(o).is_absolute() else o for o in sys.argv[1:])]), config=config,
        **made_with('cpu'), runs=trained, history=dict(ncml=history(ncml), ml=history(ml)), n_bits=a['n_bits'], true_bpd=bpds, rows=rows,
        original=some[:n_show].tolist(), masks={k:v.tolist() for k,v in masks.items()})
    out.write_text(json.dumps(result)+'\n')
