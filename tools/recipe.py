#!/usr/bin/env python3
"""Recipes of training beside each other at equal CPU time, by plain maximum likelihood at t = 0.

    python tools/recipe.py cifar8.npz --seconds 150 --out recipe.csv            all recipes that are not in the file yet
    python tools/recipe.py cifar8.npz --seconds 150 --only base,muon-.02 --seeds 0,1 --out recipe.csv

The clock is that of the process, so that other work on the machine costs no recipe anything. A row holds the bits per dimension of the same test
images under the last weights and under averages of them whose spans are shares of the run."""
import copy
import json
import math
import time
from pathlib import Path
import pandas as pd
import torch
from torch import nn
from fastcore.script import call_parse
from ncml.data.loaders import get_dls
from ncml.learner import image_digest, made_with
from ncml.loss import NoiseDist, bpd, ncml_loss
from ncml.ncpn import NCPN, data_init, preset
from ncml.sde import VPSDE, to_unit

base = dict(opt='adamw', lr=1e-3, betas=(.9,.999), schedule='one-cycle', bs=32, init=True, arch={}, clip=1.)
recipes = {'base':{}, **{f'lr-{v:g}':dict(lr=v) for v in (5e-4, 2e-3, 4e-3, 8e-3, 16e-3)},
    **{f'wsd-{v:g}':dict(lr=v, schedule='wsd') for v in (1e-3, 2e-3, 4e-3, 8e-3)},
    **{f'betas-{a}-{b}-lr-{v:g}':dict(betas=(a,b), lr=v) for a,b,v in ((.9,.99,4e-3), (.9,.95,4e-3), (.95,.9995,1e-3), (.95,.9995,4e-3))},
    **{f'bs-{n}-lr-{v:g}':dict(bs=n, lr=v) for n,v in ((16,2e-3), (16,4e-3), (64,4e-3), (64,8e-3))},
    **{f'muon-{v:g}':dict(opt='muon', lr=v) for v in (5e-3, 1e-2, 2e-2, 4e-2)},
    'no-init':dict(init=False, lr=4e-3), 'no-attention':dict(arch=dict(n_heads=0), lr=4e-3), 'coarse-attention':dict(arch=dict(att_scales=(2,)), lr=4e-3),
    'two-scales':dict(arch=dict(n_scales=2), lr=4e-3), 'mix-10':dict(arch=dict(n_mix=10), lr=4e-3), 'filters-64':dict(arch=dict(n_filters=64), lr=2e-3),
    'pixelcnn++':dict(opt='adam', betas=(.95,.9995), lr=1e-3, schedule='decay'), # its Adam and its Polyak average .9995, rate times .999995 a step
}
widths = (.02, .05, .1, .2) # relative standard deviations of the averages

def gamma(rel_std):
    "γ of the power function average whose standard deviation is this share of the run (EDM2, section 3)"
    low,high = 0., 1e6
    for _ in range(200):
        g = (low+high)/2
        low,high = (g,high) if math.sqrt((g+1)/((g+2)**2*(g+3)))>rel_std else (low,g)
    return g

class Muon(torch.optim.Optimizer):
    "Momentum whose update is orthogonalised, on flattened filters"
    def __init__(self, params, lr=.02, momentum=.95): super().__init__(params, dict(lr=lr, momentum=momentum))
    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in (p for p in g['params'] if p.grad is not None):
                m = self.state[p].setdefault('momentum', torch.zeros_like(p))
                m.lerp_(p.grad, 1-g['momentum'])
                p.add_(orthogonal(p.grad.lerp(m, g['momentum']).flatten(1)).view_as(p), alpha=-g['lr']*max(1, p.shape[0]/p[0].numel())**.5)

def orthogonal(x, steps=5):
    "The nearest matrix with singular values near 1, by Newton and Schulz's iteration (Jordan et al. 2024)"
    a,b,c = 3.4445,-4.7750,2.0315
    tall = x.shape[0]>x.shape[1]
    x = (x.T if tall else x)/(x.norm()+1e-7)
    for _ in range(steps):
        s = x@x.T
        x = a*x + (b*s + c*s@s)@x
    return x.T if tall else x

def share_of_lr(schedule, s):
    "Learning rate, as a share of its peak, at the share `s` of the run"
    def cos(a, b, v): return a + (1-math.cos(math.pi*v))/2*(b-a)
    if schedule=='one-cycle': return cos(1/25, 1, s/.1) if s<.1 else cos(1, 1e-4, (s-.1)/.9)
    if schedule=='wsd': return min(1., s/.05, (1-s)/.3 + 1e-3)
    return 1.

def optimizers(model, o):
    if o['opt']!='muon': return [dict(adamw=torch.optim.AdamW, adam=torch.optim.Adam)[o['opt']](model.parameters(), lr=o['lr'], betas=o['betas'], foreach=True, **dict(weight_decay=0.) if o['opt']=='adamw' else {})]
    filters = [p for m in model.modules() if isinstance(m, (nn.Conv2d,nn.ConvTranspose2d,nn.Linear)) and m is not model.out for p in [m.weight]]
    rest = [p for p in model.parameters() if not any(p is q for q in filters)]
    return [Muon(filters, o['lr']),torch.optim.AdamW(rest, lr=4e-3, betas=o['betas'], weight_decay=0., foreach=True)]

def train(o, seed, u, test, n_bits, seconds):
    torch.manual_seed(seed)
    sde = VPSDE()
    T = sde.t_at_levels(10., 8)
    model = NCPN(u.shape[1], n_bits, t_max=T, **preset('tiny', **o['arch'])).speed_up()
    clean = NoiseDist(sde, T, 1.)
    if o['init']: data_init(model, to_unit(u[torch.randperm(len(u))[:64]], n_bits), torch.zeros(64))
    opts = optimizers(model, o)
    peaks = [[g['lr'] for g in opt.param_groups] for opt in opts]
    averages = {w:(gamma(w),copy.deepcopy(model)) for w in widths}
    polyak,n,start,losses = copy.deepcopy(model),0,time.process_time(),[]
    while (s := (time.process_time()-start)/seconds)<1:
        for opt,lrs in zip(opts, peaks, strict=True):
            for g,lr in zip(opt.param_groups, lrs, strict=True): g['lr'] = lr*share_of_lr(o['schedule'], s)
        x = to_unit(u[torch.randint(len(u), (o['bs'],))], n_bits)
        loss = ncml_loss(model.train(), sde, x, noise_dist=clean)
        for opt in opts: opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), o['clip'])
        for opt in opts: opt.step()
        n += 1
        losses.append(loss.item())
        with torch.no_grad():
            for g,m in averages.values(): torch._foreach_lerp_(list(m.parameters()), list(model.parameters()), 1-(1-1/n)**(g+1))
            torch._foreach_lerp_(list(polyak.parameters()), list(model.parameters()), max(.0005, 1/n))
    row = dict(steps=n, images=n*o['bs'], train_loss=sum(losses[-50:])/len(losses[-50:]), parameters=sum(p.numel() for p in model.parameters()))
    x = to_unit(test, n_bits)
    def bits(m):
        with torch.no_grad(): return torch.cat([bpd(m, b) for b in x.split(100)]).double().mean().item()
    return row | dict(raw=bits(model), polyak=bits(polyak), **{f'average_{w:g}':bits(m) for w,(_,m) in averages.items()})

@call_parse
def main(
    data:str, # source of images, as in `get_dls`
    out:str, # CSV file to add rows to
    seconds:float=150., # of CPU for each training
    only:str='', # names of recipes, with commas between (default: all)
    seeds:str='0,1',
    n:int=1000, # test images
):
    "Train each recipe for the same CPU time"
    torch.set_num_threads(1)
    dls = get_dls(data, bs=64)
    u,test,n_bits = dls.train_ds.u,dls.loaders[-1].dataset.u[:n],dls.train_ds.n_bits
    out = Path(out)
    done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['recipe','seed','seconds','shape'])
    shape = 'x'.join(map(str, u.shape[1:]))
    for seed in map(int, seeds.split(',')):
        for name in only.split(',') if only else recipes:
            if ((done.recipe==name) & (done.seed==seed) & (done.seconds==seconds) & (done['shape']==shape)).any(): continue
            o = base | recipes[name]
            row = dict(recipe=name, seed=seed, seconds=seconds, shape=shape) | train(o, seed, u, test, n_bits, seconds)
            row |= dict(test_images=image_digest(test, n_bits), options=json.dumps(o), made_with=json.dumps(made_with('cpu')))
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            temporary = out.with_suffix('.partial')
            done.to_csv(temporary, index=False)
            temporary.replace(out)
            print({k:round(v, 4) if isinstance(v, float) else v for k,v in row.items() if k not in ('options','made_with')}, flush=True)
