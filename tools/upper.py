#!/usr/bin/env python3
"""Bits of images without their last bit under a trained NCPN, for Lemma 3.2 of the paper.

    python tools/upper.py runs/claims/small-ml-0,runs/claims/small-vp-0 --out nbs/results/upper/8.json

The marginal of the upper bits is a sum over all last bits. Drawn pixel by pixel from the model, given the upper bits of the pixel, they give weights whose mean is that sum. After each
row the `paths` of an image are drawn anew by their weights (sequential Monte Carlo), which keeps the product of the means unbiased. Its logarithm is below the true one on average, so that
`upper` is an upper bound of the bits, tight as far as `upper_one`, the mean of single runs instead of the logarithm of the mean of `runs`, is near. By
Jensen's inequality `half`, the bits after half of all last bits were flipped, is at least 1 + the bits of the upper bits."""
import math
from itertools import product
from pathlib import Path
import torch
from fastcore.script import call_parse
from ncml.commands.shell import command_line
from ncml.learner import load_run, made_with
from ncml.loss import bits_per_dim, bpd
from ncml.sanity import lsb_flip, mean_interval
from ncml.sde import to_unit
from measure import write

@torch.no_grad()
def upper_mass(model, u, paths, seed=0): # levels (n,c,h,w) -> (n,), nats: log of an unbiased estimate of the mass of the upper bits
    g,(n,c,h,w) = torch.Generator().manual_seed(seed),u.shape
    low = torch.tensor(list(product((0,1), repeat=c)))[:,:,None,None] # all last bits of a pixel
    u = u.repeat(paths, 1, 1, 1)
    x,found,weight = to_unit(u, model.n_bits),torch.zeros(n, dtype=torch.float64),torch.zeros(paths, n, dtype=torch.float64)
    for i,j in product(range(h), range(w)):
        p = model.params(x, x.new_zeros(len(x)))[...,i:i+1,j:j+1].repeat_interleave(len(low), 0)
        v = to_unit((u[:,:,i:i+1,j:j+1]//2*2)[:,None] + low, model.n_bits).flatten(0, 1)
        lp = model.mixture(p, c, model.n_bits, clean=torch.ones(len(v), dtype=torch.bool)).log_prob(v).view(len(x), len(low)).double()
        weight += lp.logsumexp(1).view(paths, n)
        k = torch.multinomial(lp.softmax(1), 1, generator=g)[:,0]
        x[:,:,i,j] = v.view(len(x), len(low), c)[torch.arange(len(x)),k]
        if j==w-1:
            found += weight.logsumexp(0)-math.log(paths)
            k = torch.multinomial(weight.softmax(0).T, paths, replacement=True, generator=g).T # (paths,n)
            x,weight = x[(k*n+torch.arange(n)).flatten()],torch.zeros_like(weight)
    return found

def upper_bits(model, u, paths, runs, seed=0): # (n,) twice, bits per dimension: of the mean of all runs, mean of single ones
    lp = torch.stack([upper_mass(model, u, paths, seed+i) for i in range(runs)])
    return bits_per_dim(lp.logsumexp(0)-math.log(runs), u),bits_per_dim(lp.mean(0), u)

@call_parse
def main(
    folders:str, # folders of finished NCPN jobs, with commas between
    out:str='upper.json', # file of the result
    n:int=200, # most test images
    paths:int=4, # of last bits, for each image
    runs:int=2, # of all paths
    flips:int=4, # of half of the last bits, for each image
    every:int=1, # of the test images the first of so many, crops of one image
    seed:int=0,
):
    "Measure the bits of the upper bits"
    folders,rows = [Path(o) for o in folders.split(',')],{}
    for folder in folders:
        run = load_run(folder/'run')
        u,k = run.images('test')[0][::every][:n],run.config['data']['n_bits']
        def bits(v): return bpd(run.model, to_unit(v, run.config['data']['n_bits'])).double() # noqa: B023
        with torch.no_grad():
            clean = bits(u)
            half = torch.stack([bits(lsb_flip(u, .5, k, torch.Generator().manual_seed(seed+i))) for i in range(flips)]).mean(0)
        upper,one = upper_bits(run.model, u, paths, runs, seed)
        found = dict(clean=clean, half=half, upper=upper, upper_one=one, gap=half-1-upper, last=clean-upper)
        rows[folder.name] = dict(weights=run.config['weights_sha256'][:16], size=u.shape[-1], n=len(u)) | {i:dict(zip(('mean','stderr','low','high'), mean_interval(v), strict=True)) for i,v in found.items()}
        rows[folder.name]['values'] = [round(v, 4) for v in upper.tolist()]
        print(folder.name, {i:(round(v.mean().item(), 3), round(v.std().item()/len(v)**.5, 3)) for i,v in found.items()}, flush=True)
    words = dict(folders=','.join(o.name for o in folders), out=Path(out).name, n=n, paths=paths, runs=runs, flips=flips, every=every, seed=seed)
    result = dict(command=command_line(main, words).replace('main', 'python tools/upper.py', 1), rows=rows) | made_with()
    write(Path(out), result)
