#!/usr/bin/env python3
"""Train on the images of a pack for so many minutes, going on from a checkpoint; bits of both averages of the weights every half minute.

    python tools/gpu_train.py pack/data runs/gpu/vp/run --minutes 4 --net n_filters=96,n_blocks=3

`curve.json` has a row for each evaluation: seconds of training, images, and for the raw and the averaged weights bits per dimension of test
images, clean and with a share π of values changed by a level. At the end the weights are rounded to half precision, so that the run
folder is small, written, and evaluated image by image (`test.json`) as they were written."""
import json
import shutil
import time
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from fastcore.script import call_parse, store_true
from ncml.commands.train import net_changes
from ncml.data.loaders import image_dls
from ncml.fast.layers import compile_cache
from ncml.learner import BPDMetric, image_digest, load_run, made_with, ncml_learner
from ncml.models.flows import flow
from ncml.models.scoreflow import scoreflow_learner
from ncml.ncpn import preset
from ncml.sanity import plus_minus_one, sanity_test
from ncml.sde import default_levels, get_sde
from ncml.training.train import train_run
from gpu import read_sheets
from jobs import put

pis = [0., .5, 1.]

def images(data, name, toy=False): # (n,3,h,w) uint8
    x = torch.from_numpy(read_sheets(data, name)).permute(0, 3, 1, 2).contiguous()
    return x[:64,:,8:16,8:16].contiguous() if toy else x

def measure(model, u, y, bs): # bits per dimension at each π, with paired intervals
    return sanity_test(model, u, 8, y if model.n_classes else None, pis=pis, perturb=plus_minus_one, seed=0, bs=bs)

class Curve(Callback):
    "Bits of the images `u` by the raw and the averaged weights every `every` seconds, without compiled graphs; rounds the average at the end"
    order = 80
    def __init__(self, file, u, y, every, bs): self.file,self.u,self.y,self.every,self.bs,self.rows,self.last = file,u,y,every,bs,[],None
    def state_dict(self): return dict(rows=self.rows)
    def load_state_dict(self, o): self.rows = o['rows']
    def before_validate(self): torch.compiler.set_stance('force_eager')
    def after_validate(self): torch.compiler.set_stance('default')
    def after_cancel_validate(self): torch.compiler.set_stance('default')
    def after_batch(self):
        if self.last is None: self.last = time.monotonic()
        if self.training and time.monotonic()-self.last>self.every: self.row()
    def after_fit(self):
        for o in self.learn.density.parameters(): o.data.copy_(o.half()) # a checkpoint keeps them as they were
        self.row()
    def row(self):
        steps,inner = len(self.learn.recorder.losses),self.learn.model
        row = dict(images=steps*self.learn.dls.train.bs, seconds=round(self.learn.checkpoints.seconds(), 1))
        with torch.compiler.set_stance('force_eager'), torch.autocast(next(inner.parameters()).device.type, enabled=False):
            for k,m in dict(raw=inner.model, average=self.learn.density).items():
                row[k] = measure(m, self.u, self.y, self.bs).bpd.round(4).tolist()
        self.rows.append(row)
        print(row, flush=True)
        put(self.file, (json.dumps(self.rows)+'\n').encode())
        self.last = time.monotonic()

def save(file, **record):
    file.parent.mkdir(parents=True, exist_ok=True)
    put(file, (json.dumps(record, indent=1)+'\n').encode())

@call_parse
def main(
    data:Path, # of the pack
    run:Path, # run folder
    objective:str='ncml', sde:str='vp', levels:float=None, class_cond:store_true=False, seed:int=0, # as in `ncml_train`
    model:str='ncpn', # or 'flow', `ncml.models.flows.flow`
    net:str='n_filters=96,n_blocks=3', # changes to the preset 'papers' without attention; of 'scoreflow': a name in `score_presets`; of a flow: options of `PatchFlow`
    minutes:float=4, # of training, from the first batch on
    bs:int=128, lr:float=.02, dropout:float=0.,
    every:float=30, # seconds between two evaluations
    cache:Path=None, # file of compiled code, read and written
    compile:store_true=False, # each block
    toy:store_true=False, # small images and network, seconds
):
    "Train, save, evaluate"
    begin,device = time.monotonic(),'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark,torch.backends.cudnn.allow_tf32 = True,False
    compile = compile and device=='cuda'
    small = dict(ncpn='n_filters=8,n_blocks=1,n_mix=2,n_scales=1', flow='n_filters=16,n_blocks=2,n_layers=1,n_heads=2')[model]
    if toy: net,bs,minutes,every = small,16,.05,1.
    set_seed(seed)
    u,test = (images(data, k, toy) for k in ('train','test'))
    with np.load(data/'labels.npz') as f: y,y_test = (torch.from_numpy(f[k][:len(o)]).long() for k,o in (('y_train',u), ('y_test',test)))
    n = (len(u)-min(500, len(u)//4))//bs*bs # whole batches alone: one shape for the compiler
    sets = (u[:n],y[:n]),(u[n:][:500],y[n:][:500]),(test,y_test)
    dls = image_dls(*(o if class_cond or not i%2 else None for s in sets for i,o in enumerate(s)), bs=bs, device=device, seed=seed)
    if model=='flow':
        options = {k:int(v) for k,v in (o.split('=') for o in net.split(','))}
        own = flow(tuple(u.shape[1:]), 8, get_sde(sde).t_at_levels(levels or default_levels(8), 8), 10*class_cond, options)
        choice = dict(model=own.to(device))
    else: choice = dict(arch=preset('papers', **dict(n_heads=0, d_emb=None, dropout=dropout) | ({} if objective=='scoreflow' else net_changes(net))), compile=compile)
    if objective=='scoreflow':
        net = dict(n_filters=16, multipliers=(1,2), n_blocks=1) if toy else net
        learn = scoreflow_learner(dls, sde, class_cond, net, n_times=4, lr=lr, bf16=device=='cuda', metrics=[BPDMetric(raw=True)])
    else: learn = ncml_learner(dls, sde=sde, levels=levels, p_clean=1. if objective=='ml' else .1, class_cond=class_cond, lr=lr,
        bf16=device=='cuda', metrics=[BPDMetric(raw=True)], **choice)
    learn.add_cb(Curve(run.parent/'curve.json', test[:256], y_test[:256], every, 4*bs))
    info = dict(data=dict(source='CIFAR-10', digest=image_digest(u[:n], 8)), training=dict(objective=objective, bs=bs, minutes=minutes, seed=seed))
    goes_on = any(run.parent.rglob('checkpoints/*.safetensors'))
    config = run/'config.json'
    trained = config.exists() and not goes_on and 'interrupted' not in json.loads(config.read_text())['training']
    if trained: done = load_run(run, device, lambda **_: deepcopy(learn.density)) # only the evaluation is missing
    else:
        if not goes_on: shutil.rmtree(run, ignore_errors=True) # its checkpoint was too large to come back
        with compile_cache(cache) if cache and compile else nullcontext():
            done = train_run(learn, run, minutes=minutes, info=info, save_every=.01 if toy else 1, resume=goes_on)
    if objective=='scoreflow': done.model.n_times = 32
    save(run.parent/'test.json', sanity=measure(done.model, test, y_test, 4*bs).round(5).to_dict('records'), images=len(test), digest=image_digest(test, 8),
        trained_on=n, parameters=sum(p.numel() for p in done.model.parameters()), weights_sha256=done.config['weights_sha256'], noise=done.config['noise'],
        sde=done.config['sde'], seconds=dict(training=done.config['training']['seconds'], this_call=round(time.monotonic()-begin, 1)), made_with=made_with(device))
