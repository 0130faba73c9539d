#!/usr/bin/env python3
"""Recipes of training beside each other at equal CPU time.

    python tools/recipe.py cifar8.npz --seconds 75 --group lr --out recipe.csv      the recipes of one question, both seeds
    python tools/recipe.py cifar8.npz --seconds 75 --only base,centre --seeds 0 --out recipe.csv

The recipes of a call train in turns, a second of the process's own CPU time each, so that other work on the machine slows all of them alike.
A row holds the bits per dimension of the same test images under the last weights and under averages of them whose spans are shares of the run."""
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
from ncml.learner import ema_gamma, image_digest, made_with
from ncml.loss import NoiseDist, bits_per_dim, bpd
from ncml.ncpn import NCPN, data_init, preset
from ncml.sanity import plus_minus_one
from ncml.sde import VPSDE, to_unit
from ncml.training.muon import Muon

today = dict(opt='adamw', lr=1e-3, betas=(.9,.999), schedule='one-cycle', bs=64, init=True, weight_norm=True, arch=dict(n_heads=4, att_scales=None),
    noise='none', times='stratified')
centre = today | dict(lr=4e-3, bs=32, arch=dict(n_heads=0))
def near(**changes): return centre | changes
best = centre | dict(opt='muon', lr=.02)
def near_best(**changes): return best | changes
def heads(**kw): return dict(n_heads=4, **kw)
groups = {
    'today':{'today':today, 'pixelcnn++':near(opt='adam', betas=(.95,.9995), lr=1e-3, schedule='decay'), 'centre':centre},
    'lr':{f'lr-{v:g}':near(lr=v) for v in (1e-3, 2e-3, 8e-3, 16e-3)},
    'betas':{f'betas-{a}-{b}':near(betas=(a,b)) for a,b in ((.9,.99), (.9,.95), (.95,.9995))},
    'muon':{f'muon-{v:g}':near_best(lr=v) for v in (5e-3, 1e-2, 2e-2, 4e-2)},
    'attention':{'attention-all':near_best(arch=heads()), 'attention-1-2':near_best(arch=heads(att_scales=(1,2))), 'attention-2':near_best(arch=heads(att_scales=(2,)))},
    'schedule':{'muon-momentum':near_best(moms=True), **{f'muon-wsd-{v:g}':near_best(lr=v, schedule='wsd') for v in (1e-2, 2e-2)}},
    'bs':{f'muon-bs-{n}':near_best(bs=n) for n in (16, 64)},
    'weights':{'muon-no-init':near_best(init=False), 'muon-no-weight-norm':near_best(weight_norm=False), 'no-weight-norm':near(weight_norm=False)},
    'size':{'filters-48':near_best(arch=dict(n_heads=0, n_filters=48)), 'blocks-2':near_best(arch=dict(n_heads=0, n_blocks=2)), 'mix-10':near_best(arch=dict(n_heads=0, n_mix=10)),
        'scales-2':near_best(arch=dict(n_heads=0, n_scales=2))},
    'noise':{**{f'noise-{k}':near_best(noise=k) for k in ('t','std','log_std')}, **{f'noise-t-{k}':near_best(noise='t', times=k) for k in ('independent','antithetic','importance')}},
}
recipes = {k:v for g in groups.values() for k,v in g.items()}
widths = (.02, .05, .1, .2) # relative standard deviations of the averages

def share_of_lr(schedule, s):
    "Learning rate, as a share of its peak, at the share `s` of the run"
    def cos(a, b, v): return a + (1-math.cos(math.pi*v))/2*(b-a)
    if schedule=='one-cycle': return cos(1/25, 1, s/.1) if s<.1 else cos(1, 1e-4, (s-.1)/.9)
    if schedule=='wsd': return min(1., s/.05, (1-s)/.3 + 1e-3)
    return 1.

def optimizers(model, o):
    if o['opt']!='muon':
        own = dict(weight_decay=0.) if o['opt']=='adamw' else {}
        return [dict(adamw=torch.optim.AdamW, adam=torch.optim.Adam)[o['opt']](model.parameters(), lr=o['lr'], betas=o['betas'], foreach=True, **own)]
    return [Muon(model.parameters(), o['lr'])]

def without_weight_norm(model):
    "The length of every filter is that of its direction, so that the direction is the filter"
    for m in (m for m in model.modules() if 'g' in m._parameters):
        dim = 1 if isinstance(m, nn.ConvTranspose2d) else 0
        with torch.no_grad(): m.weight.copy_(torch._weight_norm(m.weight, m.g, dim))
        del m.g
        m.__class__ = type(m.__class__.__name__, (m.__class__,), dict(g=property(lambda m, d=dim: torch.norm_except_dim(m.weight, 2, d))))

def times_and_weights(dist, n, kind):
    "Times of a batch and the weights of their losses"
    if kind=='stratified': return dist.sample(n),torch.ones(n)
    if kind=='importance': # uniform in log s, weighted to be uniform in t
        other = NoiseDist(dist.sde, dist.t_max, 0., 'log_std', dist.min_std)
        v = ((torch.rand(()) + torch.randperm(n)/n) % 1).double().requires_grad_()
        t = other.quantile(v)
        w = torch.autograd.grad(t.sum(), v)[0].abs()/dist.t_max
        clean = torch.rand(n)<dist.p_clean
        return torch.where(clean, 0., t.detach()).float(),torch.where(clean, 1., w).float()
    v = torch.rand(n) if kind=='independent' else torch.cat([v := torch.rand(n//2), 1-v])
    t = dist.quantile((v-dist.p_clean).clamp(min=0)/(1-dist.p_clean))
    return torch.where(v<dist.p_clean, 0., t),torch.ones(n)

def train(o, seed, u, test, n_bits, seconds):
    "Yields after each step of the training; returns its row"
    torch.manual_seed(seed)
    sde = VPSDE()
    T = sde.t_at_levels(10., 8)
    model = NCPN(u.shape[1], n_bits, t_max=T, **preset('tiny', **o['arch'])).speed_up()
    dist = NoiseDist(sde, T, 1. if o['noise']=='none' else .1, 't' if o['noise']=='none' else o['noise'], sde.kernel(T)[1]/80)
    if o['init']: data_init(model, to_unit(u[torch.randperm(len(u))[:64]], n_bits), torch.zeros(64))
    if not o['weight_norm']: without_weight_norm(model)
    opts = optimizers(model, o)
    peaks = [[g['lr'] for g in opt.param_groups] for opt in opts]
    averages = {w:(ema_gamma(w),copy.deepcopy(model)) for w in widths}
    polyak,n,used,losses = copy.deepcopy(model),0,0.,[]
    while (s := used/seconds)<1:
        start = time.process_time()
        for opt,lrs in zip(opts, peaks, strict=True):
            for g,lr in zip(opt.param_groups, lrs, strict=True):
                g['lr'] = lr*share_of_lr(o['schedule'], s)
                if 'moms' in o: g['momentum'] = .95 - .1*share_of_lr('one-cycle', s) # as fastai's one-cycle does
        x = to_unit(u[torch.randint(len(u), (o['bs'],))], n_bits)
        t,w = times_and_weights(dist, len(x), o['times'])
        x = sde.perturb(x, t)
        loss = (w*bits_per_dim(model.train().log_prob(x, t), x)).mean()
        for opt in opts: opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for opt in opts: opt.step()
        n += 1
        losses.append(loss.item())
        used += time.process_time()-start # averages and tests cost no recipe anything
        with torch.no_grad():
            for g,m in averages.values(): torch._foreach_lerp_(list(m.parameters()), list(model.parameters()), 1-(1-1/n)**(g+1))
            torch._foreach_lerp_(list(polyak.parameters()), list(model.parameters()), max(.0005, 1/n))
        yield
    row = dict(steps=n, images=n*o['bs'], train_loss=sum(losses[-50:])/len(losses[-50:]), parameters=sum(p.numel() for p in model.parameters()))
    def bits(m, v, t=None):
        with torch.no_grad():
            parts = [bpd(m, to_unit(b, n_bits)) if t is None else bpd(m, sde.perturb(x := to_unit(b, n_bits), c, torch.randn(x.shape)), c)
                for b,c in zip(v.split(100), (v[:,0,0,0] if t is None else t).split(100), strict=True)]
        return torch.cat(parts).double().mean().item()
    best = averages[.05][1]
    row |= dict(raw=bits(model, test), polyak=bits(polyak, test), **{f'average_{w:g}':bits(m, test) for w,(_,m) in averages.items()})
    torch.manual_seed(0)
    return row | dict(changed=bits(best, plus_minus_one(test, 1., n_bits)), noisy=bits(best, test, torch.arange(1, len(test)+1)/len(test)*T))

def in_turns(jobs):
    "Run generators in turns of a second, each with random numbers of its own; their results"
    state,out = dict.fromkeys(jobs),{}
    while len(out)<len(jobs):
        for k in (k for k in jobs if k not in out):
            if state[k] is not None: torch.set_rng_state(state[k])
            end = time.process_time()+1
            try:
                while time.process_time()<end: next(jobs[k])
            except StopIteration as e: out[k] = e.value
            state[k] = torch.get_rng_state()
    return out

@call_parse
def main(
    data:str, # source of images, as in `get_dls`
    seconds:float=75., # of CPU for each training
    group:str='', # question to answer (default: all, one after the other)
    only:str='', # names of recipes instead, with commas between
    seeds:str='0,1',
    n:int=1000, # test images
    out:str='recipe.csv', # file to add rows to
):
    "Train recipes for the same CPU time"
    torch.set_num_threads(1)
    dls,out,seeds = get_dls(data, bs=64),Path(out),[int(o) for o in seeds.split(',')]
    u,test,n_bits = dls.train_ds.u,dls.loaders[-1].dataset.u[:n],dls.train_ds.n_bits
    shape = 'x'.join(map(str, u.shape[1:]))
    for names in [only.split(',')] if only else [list(groups[g]) for g in ([group] if group else groups)]:
        done = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['recipe','seed','seconds','shape'])
        def new(k, s, done=done): return not ((done.recipe==k) & (done.seed==s) & (done.seconds==seconds) & (done['shape']==shape)).any()
        jobs = {(k, s):train(recipes[k], s, u, test, n_bits, seconds) for k in names for s in seeds if new(k, s)}
        for (k,s),row in in_turns(jobs).items():
            row = dict(recipe=k, seed=s, seconds=seconds, shape=shape) | row
            row |= dict(test_images=image_digest(test, n_bits), options=json.dumps(recipes[k]), made_with=json.dumps(made_with('cpu')))
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            print({k:round(v, 4) if isinstance(v, float) else v for k,v in row.items() if k not in ('options','made_with')}, flush=True)
        temporary = out.with_suffix('.partial')
        done.to_csv(temporary, index=False)
        temporary.replace(out)
