#!/usr/bin/env python3
"""What only a GPU can show, in half a minute: rates of the machine, the GPU's numbers against the CPU's, exact resume; with --cells the notebooks' cells for GPUs.

    python tools/gpu_check.py runs/gpu/check

`check.json` is renewed after each part. Differences are relative: |a-b|/|b| in the 2-norm, b in float64 on the CPU."""
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
import torch
from fastai.callback.core import Callback, CancelFitException
from fastcore.script import call_parse, store_true
from ncml.data.loaders import digits, image_dls
from ncml.fast.cached import sample_cached
from ncml.learner import made_with, ncml_learner
from ncml.loss import bpd, score
from ncml.ncpn import NCPN, data_init
from ncml.sde import to_unit
from ncml.training.resume import Checkpoints
from gpu_train import save

root = Path(__file__).resolve().parent.parent
notebooks = '01_sde','data/03_loaders','fast/04_steps','fast/03_cached','05_sampling' # those with cells for a GPU

def seconds(f, n=10):
    "The median of `n` calls"
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    ts = []
    for _ in range(n+2):
        wait()
        t = time.perf_counter()
        f()
        wait()
        ts.append(time.perf_counter()-t)
    return sorted(ts[2:])[n//2]

def rates(device, toy):
    "TFLOP/s of a matrix product, TB/s of a copy"
    n,half = (256,2**20) if toy else (8192,2**30)
    a,b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randint(0, 255, (half,), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return dict(bf16_tflops=2*n**3/seconds(lambda: a@b)/1e12, copy_tb=2*half/seconds(lambda: y.copy_(x))/1e12)

def network(n_heads, device, dtype):
    torch.manual_seed(0)
    m,x = NCPN(3, 8, n_filters=32, n_blocks=1, n_mix=3, n_heads=n_heads, t_max=.1),torch.randint(0, 256, (8, 3, 16, 16))
    x = to_unit(x, 8)
    data_init(m.eval(), x, torch.full((8,), .05))
    return m.speed_up().to(device, dtype),x.to(device, dtype)

def rel(a, b): return ((a.double().cpu()-b).norm()/b.norm()).item()

def numbers(device, toy):
    "Relative differences of log likelihood and score, and of cached samples the share of equal levels"
    rows = []
    for heads in (2,) if toy else (0, 2):
        want = {}
        for where,dtype,half in (('cpu',torch.float64,False), (device,torch.float64,False), (device,torch.float32,False), (device,torch.float32,True)):
            m,x = network(heads, where, dtype)
            noise = torch.rand(8, 7, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
            row = dict(heads=heads, device=where, dtype='bfloat16' if half else str(dtype).removeprefix('torch.'))
            with torch.autocast(torch.device(where).type, torch.bfloat16) if half else nullcontext():
                for t in (0., .05):
                    got = {f'bpd {t:g}':bpd(m, x, t).detach(), f'score {t:g}':score(m, x, t)}
                    row |= {k:rel(v, want.setdefault(k, v.double().cpu())) for k,v in got.items()}
            if not half:
                u = sample_cached(m, (8,3,16,16), noise=noise).cpu()
                if where!='cpu': row['changed by graphs'] = (sample_cached(m, (8,3,16,16), noise=noise, capture=None).cpu()!=u).float().mean().item()
                if dtype==torch.float64: row['equal levels'] = (u==want.setdefault('u', u)).float().mean().item() # float32 departs for good at its first other level
            rows.append(row)
            print(row, flush=True)
    return rows

def resumed(device):
    "Largest difference of the weights of a training that stopped and went on, and of one repeated, from one that ran through"
    def train(folder, steps=None):
        torch.manual_seed(0)
        dls = image_dls(digits('train')[0][:256], None, digits('valid')[0][:32], n_bits=4, bs=32, device=device, seed=0)
        learn = ncml_learner(dls, arch=dict(n_filters=16, n_blocks=1, n_mix=2, n_heads=0), levels=1.5, bf16=device!='cpu')
        class Stop(Callback):
            order = 2000
            def state_dict(self): return {}
            def load_state_dict(self, o): pass
            def after_batch(self):
                if steps and self.training and len(self.recorder.losses)==steps: raise CancelFitException
        with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=[Checkpoints(folder, steps=3, log=lambda o: None), Stop()])
        return torch.cat([p.detach().flatten().double().cpu() for p in learn.model.parameters()])
    with tempfile.TemporaryDirectory() as d:
        whole,again = train(Path(d)/'a'),train(Path(d)/'b')
        train(Path(d)/'c', 5)
        back = train(Path(d)/'c')
    return dict(resumed=(back-whole).abs().max().item(), repeated=(again-whole).abs().max().item())

stub = '''
import contextlib, importlib.util, io, sys, types
if not importlib.util.find_spec('IPython'): # two notebooks take one function of it
    for o in ('IPython','IPython.utils','IPython.utils.capture'): sys.modules[o] = types.ModuleType(o)
    sys.modules['IPython'].get_ipython = lambda: None
    sys.modules['IPython.utils.capture'].capture_output = lambda: contextlib.redirect_stdout(io.StringIO())
'''

def run_cells(fn):
    "The code cells of a notebook in one namespace, those for GPUs too; the error, if any"
    code = stub + '\n'.join(''.join(c['source']) for c in json.loads((root/'nbs'/f'{fn}.ipynb').read_text())['cells']
        if c['cell_type']=='code' and 'nbdev' not in ''.join(c['source']) and not ''.join(c['source']).startswith(('#| slow','#| notest','#| eval: false')))
    try: p = subprocess.run([sys.executable,'-c',code], cwd=root/'nbs'/Path(fn).parent, capture_output=True, text=True, timeout=240, env=os.environ | dict(OMP_NUM_THREADS='3'))
    except subprocess.TimeoutExpired: return ['more than 240 seconds']
    return None if not p.returncode else p.stderr.strip().splitlines()[-1:]

@call_parse
def main(
    out:Path, # folder of check.json
    cells:store_true=False, # of the notebooks alone
    toy:store_true=False, # small sizes
):
    "Run all parts"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.allow_tf32 = False
    done = dict(made_with=made_with(device))
    parts = dict(rates=lambda: rates(device, toy), numbers=lambda: numbers(device, toy), resume=lambda: resumed(device))
    def all_cells():
        with ThreadPoolExecutor(5) as pool: done = dict(zip(notebooks, pool.map(run_cells, notebooks), strict=True))
        if all(done.values()): raise RuntimeError(done)
        return done
    if cells: parts = {} if toy else dict(cells=all_cells)
    failed = {}
    for k,f in parts.items():
        t = time.monotonic()
        try: done[k] = f()
        except Exception as e: done[k],failed[k] = f'{type(e).__name__}: {e}',e
        print(k, done[k], f'{time.monotonic()-t:.1f} s', flush=True)
        save(out/('cells.json' if cells else 'check.json'), **done)
    if parts and len(failed)==len(parts): raise SystemExit(1)
