#!/usr/bin/env python3
"""Train on finitely many noise scales, equation 8 of the paper: a share of clean images, the others at one of `scales` times up to T, evenly spaced.

    python tools/scales.py crops.npz run --scales 4

The run folder is that of `ncml_train`; with more and more scales it becomes the run of `ncml_train --data crops.npz`."""
import json
from pathlib import Path
import torch
from fastai.torch_core import set_seed
from fastcore.script import call_parse, store_true
from ncml.commands.shell import command_line
from ncml.data.loaders import get_dls
from ncml.learner import ncml_learner
from ncml.training.train import data_record, train_run

def finite(dist, n):
    "Replace the continuous part of a `NoiseDist` by `n` times, equally likely"
    times = torch.arange(1, n+1)/n*dist.t_max
    dist.quantile = lambda v: times[(v*n).long().clamp(0, n-1)] # v outside [0,1) belongs to clean images

@call_parse
def main(
    data:str, # .npz file of images
    run:str, # run folder to make
    scales:int=4, # how many
    levels:float=10., # the largest
    p_clean:float=.1, # share of clean images
    epochs:int=1,
    seed:int=0,
    resume:store_true=False, # go on with the training in `run`?
):
    "Train"
    if scales<1: raise ValueError(f"scales: need at least 1, got {scales}")
    words = dict(data=Path(data).name, run='run', scales=scales, levels=levels, p_clean=p_clean, epochs=epochs, seed=seed, resume=False)
    set_seed(seed)
    dls = get_dls(data, bs=32, seed=seed, device='cpu')
    learn = ncml_learner(dls, levels=levels, p_clean=p_clean)
    finite(learn.noise_dist, scales)
    command = command_line(main, words).replace('main', 'python tools/scales.py', 1)
    info = dict(data=data_record(data, dls, seed=seed), noise=dict(scales=scales), training=dict(seed=seed, command=command))
    if resume: # with the options that it began with
        old = json.loads(next((p for p in (Path(run)/'config.json', Path(f'{run}.partial')/'config.json') if p.is_file()), Path(run)/'config.json').read_text())
        other = {k:(old[s].get(k),v) for s,o in info.items() for k,v in o.items() if old[s].get(k)!=v}
        if other: raise ValueError("; ".join(f"{k}: need {a}, with which {run} began, got {b}" for k,(a,b) in other.items()))
    train_run(learn, run, epochs, info=info, resume=resume)
