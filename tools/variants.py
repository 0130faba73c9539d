#!/usr/bin/env python3
"""Train the digits job with one thing changed, and write what came out as JSON: `tools/variants.py --help`."""
import json
import platform
import shlex
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
import torch
from fastcore.script import call_parse
from fastai.callback.schedule import fit_one_cycle # noqa: F401 (it patches Learner)
from fastai.callback.training import GradientClip
from fastai.torch_core import set_seed
from ncml.data.loaders import get_dls
from ncml.learner import ncml_learner
from ncml.loss import bpd, evaluating, from_batch
from ncml.ncpn import NCPN, NoiseEmbedding, data_init
from ncml.sde import draw_noise, get_sde, image_generators, level_width

levels,sde,n_bits = 1.5,get_sde('vp'),4
t_max = sde.t_at_levels(levels, n_bits)

class RawTime(NoiseEmbedding):
    "t itself"
    def position(self, t): return t

class LogNoise(NoiseEmbedding):
    "log √(s² + (Δ/4)²), from 0 at t = 0 to 1 at T"
    def position(self, t):
        tiny = level_width(n_bits)/4
        f = lambda t: torch.log1p((sde.std(t)/tiny)**2)
        return f(t)/f(torch.full_like(t, self.t_max))

class Unconditioned(NoiseEmbedding):
    "Only whether t = 0"
    def position(self, t): return torch.zeros_like(t)

def zero_init(model, *batch):
    "PyTorch's start, but every residual block the identity and the output zero: no data needed"
    for k,p in model.named_parameters():
        if k.endswith('conv_out.g') or k=='out.g': torch.nn.init.zeros_(p)

def no_init(model, *batch): pass # PyTorch's start

variants = {
    'ml':               dict(p_clean=1.),
    'ml, no attention': dict(p_clean=1., arch=dict(n_heads=0)),
    'ml, PyTorch start': dict(p_clean=1., init=no_init),
    'ml, PixelCNN++ start': dict(p_clean=1., init=partial(data_init, block=0.1, marginal=False)),
    'ml, marginal start': dict(p_clean=1., init=data_init), # what ncml_learner does
    'ml, zero start':   dict(p_clean=1., init=zero_init),
    'ncml':             dict(),
    'ncml, no attention': dict(arch=dict(n_heads=0)),
    'ncml, raw t':      dict(emb=RawTime),
    'ncml, log noise':  dict(emb=LogNoise),
    'ncml, untold':     dict(emb=Unconditioned),
}

@call_parse
def main(
    name:str, # One of the variants
    seed:int, # Of weights, order and noise; the split of the data is always the same
    out:Path, # JSON file to write
    epochs:int=24, # Passes over the 1400 training images
    lr:float=4e-3, # Largest learning rate
    dropout:float=0.35
):
    v = variants[name]
    torch.set_num_threads(1)
    dls = get_dls('digits', bs=64)
    set_seed(seed)
    model = NCPN(1, n_bits, **{**dict(n_filters=32, n_blocks=1, n_mix=5, n_heads=4, dropout=dropout, t_max=t_max), **v.get('arch', {})})
    if 'emb' in v: model.emb.__class__ = v['emb']
    learn = ncml_learner(dls, model, sde, t_max=t_max, p_clean=v.get('p_clean', 0.1), ema=.05)
    x,t = from_batch(dls.one_batch()[0], n_bits),learn.noise_dist.sample(64)
    v.get('init', partial(data_init, marginal=False))(model, sde.perturb(x, t), t)
    learn.model.average.load_state_dict(model.state_dict())
    start = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, pct_start=0.1, cbs=GradientClip(1.))
    seconds = time.process_time()-start
    net,x = learn.density,from_batch(dls.loaders[2].dataset.u, n_bits)
    def mean(b): return dict(bpd=b.mean().item(), stderr=(b.std()/len(b)**.5).item())
    with torch.no_grad(), evaluating(net):
        at = [dict(levels=0., **mean(bpd(net, x, 0.)))]
        for s in (0.05, 0.1, 0.25, 0.5, 1., 1.5) if 'p_clean' not in v else ():
            t = min(sde.t_at_levels(s, n_bits), t_max)
            at.append(dict(levels=s, **mean(bpd(net, sde.perturb(x, torch.full((len(x),), t), draw_noise(x, image_generators(0, len(x)))), t))))
    rows = learn.recorder.values # train_loss, valid_loss, bpd an epoch
    result = dict(command=shlex.join(['python', 'tools/variants.py', *('OUT' if o==str(out) else o for o in sys.argv[1:])]), variant=name, seed=seed, epochs=epochs, lr=lr, dropout=dropout,
        t_max=t_max, model=model.config, parameters=sum(p.numel() for p in model.parameters()), cpu_seconds=round(seconds, 1),
        versions=dict(python=platform.python_version(), torch=torch.__version__, fastai=version('fastai'), ncml=version('ncml')), device='cpu, 1 thread',
        test=at, valid_loss=[round(float(r[1]), 4) for r in rows], valid_bpd=[round(float(r[2]), 4) for r in rows],
        smooth_loss=[round(float(o), 5) for o in learn.recorder.losses]) # as fastai's Recorder gives it
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result)+'\n')
    print(name, seed, at[0], f'{seconds:.0f} s')
