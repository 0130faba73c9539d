#!/usr/bin/env python3
"""Last bits and the others under a trained NCPN, before and after last bits are flipped: what a change costs, and Lemma 3.2 of the paper.

    python tools/upper.py runs/claims/small-ml-0,runs/claims/small-vp-0 --out nbs/results/upper/crops8.json

The likelihood of a pixel, given the pixels before it, is that of its upper bits times that of its last bits given the upper ones. `upper` and `last` are their bits per dimension,
exact, on clean images and after each last bit was flipped with probability ½ (means over `flips` draws). With `--paths`, `marginal` are the bits of the image *without* its last
bits, a sum over all of them. Drawn pixel by pixel from the model, given the upper bits of the pixel, they give weights whose mean is that sum. After each row the `paths` of
an image are drawn anew by their weights (sequential Monte Carlo), which keeps the product of the means unbiased. Its logarithm is below the true one on average:
`marginal` is an upper bound of the bits. The same with a quarter of the paths tells how far it has settled."""
import math
from itertools import product
from pathlib import Path
import torch
from fastcore.script import call_parse
from ncml.commands.shell import command_line
from ncml.learner import image_digest, load_run, made_with
from ncml.loss import bits_per_dim
from ncml.sanity import lsb_flip
from ncml.sde import to_unit
from measure import write

def last_bits(c): return torch.tensor(list(product((0,1), repeat=c)))[:,:,None,None] # all of a pixel

@torch.no_grad()
def split_bits(model, u, bs=100): # levels (n,c,h,w) -> (n,) twice, bits per dimension
    "Bits of the upper bits and of the last bits, pixel by pixel, given all pixels before"
    found = []
    for o in u.split(bs):
        x = to_unit(o, model.n_bits)
        p = model.dist(x, x.new_zeros(len(x)))
        both = p.log_prob(x).double()
        upper = torch.stack([p.log_prob(to_unit(o//2*2+k, model.n_bits)).double() for k in last_bits(o.shape[1])]).logsumexp(0)
        found.append(torch.stack([bits_per_dim(v.flatten(1).sum(1), o) for v in (upper, both-upper)]))
    return torch.cat(found, 1)

@torch.no_grad()
def marginal_mass(model, u, paths, seed=0): # levels (n,c,h,w) -> (n,), nats
    "Logarithm of an unbiased estimate of the mass of the upper bits"
    g,(n,c,h,w),low = torch.Generator().manual_seed(seed),u.shape,last_bits(u.shape[1])
    u = u.repeat(paths, 1, 1, 1)
    x,found,weight = to_unit(u, model.n_bits),torch.zeros(n, dtype=torch.float64),torch.zeros(paths, n, dtype=torch.float64)
    for i,j in product(range(h), range(w)):
        p = model.params(x, x.new_zeros(len(x)))[...,i:i+1,j:j+1].repeat_interleave(len(low), 0)
        v = to_unit((u[:,:,i:i+1,j:j+1]//2*2)[:,None] + low, model.n_bits).flatten(0, 1)
        lp = model.mixture(p, c, model.n_bits, clean=torch.ones(len(v), dtype=torch.bool)).log_prob(v).view(len(x), len(low)).double()
        weight += lp.logsumexp(1).view(paths, n)
        k = torch.multinomial(lp.softmax(1), 1, generator=g)[:,0]
        x[:,:,i,j] = v.view(len(x), len(low), c)[torch.arange(len(x)),k]
        if j==w-1 and i<h-1:
            found += weight.logsumexp(0)-math.log(paths)
            k = torch.multinomial(weight.softmax(0).T, paths, replacement=True, generator=g).T # (paths,n)
            x,weight = x[(k*n+torch.arange(n)).flatten()],torch.zeros_like(weight)
    return found + weight.logsumexp(0)-math.log(paths)

def short(v): return [round(o, 4) for o in v.tolist()]

@call_parse
def main(
    folders:str, # folders of finished NCPN jobs, with commas between
    out:str='upper.json', # file of the result
    n:int=300, # most test images
    every:int=1, # one of every so many test images: crops of one image follow each other
    flips:int=4, # draws at π = ½ for each image
    paths:int=0, # for the marginal
    n_marginal:int=40, # images for it
    seed:int=0,
):
    "Measure upper and last bits"
    folders,rows = [Path(o) for o in folders.split(',')],{}
    for folder in folders:
        run = load_run(folder/'run')
        u,k = run.images('test')[0][::every][:n],run.config['data']['n_bits']
        half = torch.stack([split_bits(run.model, lsb_flip(u, .5, k, torch.Generator().manual_seed(seed+i))) for i in range(flips)]).mean(0)
        found = dict(zip(('upper','last','half_upper','half_last'), (*split_bits(run.model, u), *half), strict=True))
        if paths:
            few = u[:n_marginal]
            for name,o in dict(marginal=paths, quarter=paths//4).items(): found[name] = bits_per_dim(torch.cat([marginal_mass(run.model, v, o, seed) for v in few.split(10)]), few)
        rows[folder.name] = dict(weights=run.config['weights_sha256'][:16], size=u.shape[-1], images=image_digest(u, k)) | {i:short(v) for i,v in found.items()}
        print(folder.name, {i:round(v.mean().item(), 4) for i,v in found.items()}, flush=True)
    words = dict(folders=','.join(o.name for o in folders), out=Path(out).name, n=n, every=every, flips=flips, paths=paths, n_marginal=n_marginal, seed=seed)
    command = command_line(main, words).replace('main', 'python tools/upper.py', 1)
    write(Path(out), dict(command=command, rows=rows) | made_with())
