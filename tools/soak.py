#!/usr/bin/env python3
"""Kill a training at random moments, resume it, and compare what comes out with a training that was left alone.

    python tools/soak.py --kills 200 --out nbs/results/soak/soak.json

Every process is forked after the imports and killed by SIGKILL. All processes of a training share one folder of checkpoints; a training that
ends is compared, to the bit, and the next one begins, until there were so many kills."""
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
import torch
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import fit_one_cycle # noqa: F401 (it patches Learner)
from fastai.torch_core import set_seed
from fastcore.script import call_parse
from ncml.data.loaders import digits, image_dls
from ncml.learner import made_with, ncml_learner, new_files
from ncml.training.resume import Checkpoints, checkpoints, read_checkpoint, to_checkpoint, write_checkpoint


def train(folder, workers, steps, seed):
    "One process: train to the end, from the newest checkpoint; the last state is its own checkpoint"
    u,y = digits('train')
    set_seed(seed) # the checkpoint replaces it
    dls = image_dls(u[:640], y[:640], u[640:700], y[640:700], n_bits=4, bs=32, seed=seed, num_workers=workers)
    learn = ncml_learner(dls, levels=1.5, ema=.1, arch=dict(n_filters=8, n_blocks=1, n_mix=2, n_heads=0, dropout=.3))
    learn.path,cb = folder,Checkpoints(folder/'checkpoints', steps=steps)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 1e-2, cbs=[CSVLogger(), cb])
    end = dict(model=learn.model.state_dict(), opt=learn.opt.state_dict(), losses=list(learn.recorder.losses),
               values=[list(o) for o in learn.recorder.values], rows=(folder/'history.csv').read_text().count('\n'))
    write_checkpoint(folder/'end', 0, to_checkpoint(end))

def forked(*args):
    "The process id of a child that trains"
    if pid := os.fork(): return pid
    try: train(*args)
    except BaseException as e: # noqa: BLE001 (a child must not go on in the parent's code)
        print(f'{type(e).__name__}: {e}', file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

def run(folder, kills, longest, rng, *args):
    "Train in `folder`, killed until `kills` are used up; how many were"
    used = resumed = 0
    while True:
        before = bool(checkpoints(folder/'checkpoints')) # this process resumes
        pid,limit = forked(folder, *args),rng.uniform(0, longest) if used<kills else float('inf')
        end = time.monotonic()+limit
        while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic()<end: time.sleep(.002)
        if done[0]:
            if done[1]: raise SystemExit(f'a training in {folder} failed')
            return used,resumed+before
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        used,resumed = used+1,resumed+before

def same(a, b):
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a==b

@call_parse
def main(
    kills:int=200, # at random moments
    workers:int=0, # of the loaders
    steps:int=5, # between checkpoints
    longest:float=2., # seconds until a kill, uniform from 0
    seed:int=0,
    out:str='', # JSON file to write
):
    "Kill and resume a training"
    torch.set_num_threads(1)
    rng,start,used,resumed,trainings = random.Random(seed),time.time(),0,0,0
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        (d/'whole').mkdir()
        run(d/'whole', 0, longest, rng, workers, steps, seed)
        whole = read_checkpoint(d/'whole'/'end')
        while used<kills:
            folder = d/str(trainings)
            folder.mkdir()
            k,r = run(folder, kills-used, longest, rng, workers, steps, seed)
            used,resumed,trainings = used+k,resumed+r,trainings+1
            if not same(read_checkpoint(folder/'end'), whole): raise SystemExit(f'training {trainings} differs from the one left alone')
            print(f'{used} kills, {resumed} resumes, {trainings} trainings, all equal, {time.time()-start:.0f} s', flush=True)
    record = dict(command=' '.join(['python','tools/soak.py', *sys.argv[1:]]), kills=used, resumes=resumed, trainings=trainings, equal=True,
                  workers=workers, steps_between_checkpoints=steps, longest=longest, seed=seed, **made_with('cpu'))
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with new_files(Path(out)) as (p,): p.write_text(json.dumps(record, indent=1)+'\n')
