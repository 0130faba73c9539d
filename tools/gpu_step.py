#!/usr/bin/env python3
"""The fastest training step: images a second of ncml's own learner for networks, batches and ways to run them, one after the other.

    python tools/gpu_step.py runs/gpu/check/check.json runs/gpu/step --seconds 90

Each row of `step.json` has images a second, its share of the matrix rate that `check.json` measured (operations of the plain network, three
forward passes for a step), the memory, and the kernels of one step by time. What has not begun when the seconds are over is left out."""
import json
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelFitException
from fastcore.script import call_parse, store_true
from torch.profiler import ProfilerActivity, profile
from ncml.data.loaders import image_dls
from ncml.fast.layers import compile_cache
from ncml.learner import made_with, ncml_learner
from ncml.ncpn import NCPN, preset, summary
from gpu_train import save

# width, blocks, heads, batch, compiled: the first ones tell most; a case took 20 s, a compiled one more than a minute
cases = [(96, 3, 0, 128, 0), (96, 3, 0, 256, 0), (160, 5, 0, 64, 0), (64, 3, 0, 256, 0), (96, 3, 0, 128, 1), (128, 3, 0, 128, 0), (192, 3, 0, 64, 0), (96, 3, 0, 64, 0),
         (96, 3, 3, 128, 0), (96, 3, 0, 256, 1), (160, 5, 0, 64, 1), (64, 3, 0, 256, 1)]

class Time(Callback):
    "Seconds of the steps after the first ones; ends `fit`"
    order = 90
    def __init__(self, first, n, wait): self.first,self.n,self.wait = first,n,wait
    def after_batch(self):
        if self.train_iter==self.first:
            self.wait()
            self.start = time.perf_counter()
        if self.train_iter<self.first+self.n: return
        self.wait()
        self.seconds = (time.perf_counter()-self.start)/self.n
        raise CancelFitException

def one(device, width, blocks, heads, bs, compiled, toy):
    "The row of a case"
    side,first,n = (8, 2, 3) if toy else (32, 8, 20)
    wait = torch.cuda.synchronize if device=='cuda' else lambda: None
    u = torch.randint(0, 256, ((first+n+2)*bs, 3, side, side), dtype=torch.uint8)
    net = preset('papers', n_filters=width, n_blocks=blocks, n_heads=heads, d_emb=None)
    if toy: net |= dict(n_filters=8, n_blocks=1, n_mix=2, n_heads=0)
    dls = image_dls(u, None, u[:bs], bs=bs, device=device, seed=0)
    begin = time.perf_counter()
    learn = ncml_learner(dls, arch=net, bf16=device=='cuda', compile=bool(compiled) and device=='cuda')
    clock = Time(first, n, wait)
    if device=='cuda': torch.cuda.reset_peak_memory_stats()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=clock)
    with torch.device('meta'): plain = NCPN(**learn.model.model.config)
    flop = 3*summary(plain, (3,side,side))['gflop']*1e9
    row = dict(width=width, blocks=blocks, heads=heads, batch=bs, compiled=compiled, images_a_second=bs/clock.seconds, tflops=flop*bs/clock.seconds/1e12,
        to_first=round(time.perf_counter()-begin-clock.seconds*n, 1), parameters=sum(p.numel() for p in learn.model.model.parameters()))
    if device=='cuda': row['peak_gb'] = torch.cuda.max_memory_allocated()/1e9
    own = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*(device=='cuda')
    with learn.no_bar(), learn.no_logging(), profile(activities=own) as p: learn.fit(1, cbs=Time(1, 1, wait))
    def time_of(o): return o.self_device_time_total if device=='cuda' else o.self_cpu_time_total
    events = sorted(p.key_averages(), key=time_of, reverse=True)
    kernels = [o for o in events if not device=='cuda' or o.device_type==torch.autograd.DeviceType.CUDA]
    row['launches'] = sum(o.count for o in kernels)
    conv = [o for o in kernels if any(k in o.key for k in ('sm90_','gemm','cutlass','cudnn','conv'))]
    row['ms'] = {k:round(sum(time_of(o) for o in v)/1e3, 3) for k,v in dict(convolutions=conv, all=[o for o in kernels if '#' not in o.key]).items()} # of two steps
    row['profile'] = [(o.key[:80], o.count, round(time_of(o)/1e3, 3)) for o in kernels[:12]] # calls and ms of two steps
    return row

@call_parse
def main(
    check:Path, # check.json of gpu_check.py
    out:Path, # folder of step.json
    seconds:float=90,
    toy:store_true=False, # small sizes
):
    "Time the cases in order"
    begin,device = time.monotonic(),'cuda' if torch.cuda.is_available() else 'cpu'
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) # compiled code is kept
    torch.backends.cudnn.benchmark = True
    rate = json.loads(check.read_text()).get('rates', {}) if check.exists() else {}
    rows = []
    for case in cases[:1] if toy else cases:
        if time.monotonic()-begin>seconds: break
        try:
            with compile_cache(out/'cache.bin') if case[-1] and device=='cuda' else nullcontext(): row = one(device, *case, toy)
            if 'bf16_tflops' in rate: row['share'] = row['tflops']/rate['bf16_tflops']
        except Exception as e: row = dict(case=case, error=f'{type(e).__name__}: {e}'[:500])
        rows.append(row)
        print({k:v for k,v in row.items() if k!='profile'}, flush=True)
        save(out/'step.json', rates=rate, rows=rows, made_with=made_with(device))
        if device=='cuda': torch.cuda.empty_cache()
    if all('error' in o for o in rows): raise SystemExit(1)
