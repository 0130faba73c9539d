#!/usr/bin/env python3
"""What trained runs are worth: samples and their seconds, the sanity table with paired intervals, images of another kind.

    python tools/gpu_draw.py pack/data runs/gpu/draw runs/gpu/ml/run,runs/gpu/vp/run

`draw.json` is renewed after each part; NAME.png has rows at t = 0, at T, and refined from T; NAME-clean-I.webp and NAME-two_part-I.webp are sheets of
drawn images, for `read_sheets` of `tools/gpu.py`."""
import time
from functools import partial
from pathlib import Path
import torch
from fastcore.script import call_parse, store_true
from ncml.fast.cached import Replayed, sample_cached
from ncml.learner import image_digest, load_run, made_with
from ncml.ood import ood_report
from ncml.ncpn import NCPN
from ncml.sampling import get_sampler, sample_ncml
from ncml.sanity import lsb_flip, plus_minus_one, sanity_table, sanity_values
from ncml.training.train import sample_rows, save_images
from gpu import write_sheets
from gpu_train import images, pis, save

def timed(f):
    "The seconds of the second call of `f`"
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    f()
    wait()
    t = time.perf_counter()
    f()
    wait()
    return round(time.perf_counter()-t, 3)

@call_parse
def main(
    data:Path, # of the pack
    out:Path, # folder of draw.json
    runs:str, # folders of runs, separated by commas, the one to compare with first
    n:int=64, # images of a timed draw
    many:int=250, # images of each kind in sheets
    steps:int=30, # of the refinement
    toy:store_true=False, # small sizes
):
    "Draw, test, compare"
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark,torch.backends.cudnn.allow_tf32 = True,False
    if toy: n,steps,many = 4,3,8
    loaded = {p.parent.name:load_run(p, device) for p in map(Path, runs.split(','))} # raises where one is missing
    u = images(data, 'test', toy)[:1000]
    done = dict(images=len(u), digest=image_digest(u, 8), weights={k:o.config['weights_sha256'] for k,o in loaded.items()}, made_with=made_with(device))
    shape = (n,*u.shape[1:])
    def sanity():
        values = sanity_values({k:o.model for k,o in loaded.items()}, u, 8, pis=pis, perturb=[lsb_flip, plus_minus_one], seed=0, bs=512)
        return sanity_table(values).round(5).to_dict('records')
    def draw(k, run):
        noisy,T = run.config['noise']['p_clean']<1,run.config['noise']['t_max']
        if not isinstance(run.model, NCPN):
            kinds = dict(clean=lambda: get_sampler(run.model)(shape, bs=n))
            if noisy: kinds['two_part'] = lambda: sample_ncml(run.model, run.sde, shape, T, n_steps=steps, bs=n)
            return {o:timed(f) for o,f in kinds.items()}
        kinds = dict(clean=lambda: sample_cached(run.model, shape, bs=n), without_graphs=lambda: sample_cached(run.model, shape, bs=n, capture=None))
        def replayed(): return Replayed(run.model) if device=='cuda' else run.model
        def two_part(m, half=False):
            with torch.autocast(device, torch.bfloat16, enabled=half): return sample_ncml(m, run.sde, shape, T, n_steps=steps, bs=n)
        if noisy: kinds |= dict(two_part=partial(two_part, run.model), two_part_replayed=partial(two_part, replayed()), two_part_bf16=partial(two_part, replayed(), device=='cuda'))
        return {o:timed(f) for o,f in kinds.items()}
    def pictures(k, run):
        T = run.config['noise']['t_max'] if run.config['noise']['p_clean']<1 else 0.
        rows = sample_rows(run.model, run.sde, u.shape[1:], T, 8, None, seed=0, bs=64)
        save_images(rows, 8, out/f'{k}.png', 8, ['drawn at t = 0','drawn at T','refined from T'][:len(rows)//8])
        return f'{k}.png'
    def sheets(k, run):
        noisy,T = run.config['noise']['p_clean']<1,run.config['noise']['t_max']
        drawn = {name:sample_ncml(run.model, run.sde, (many,*u.shape[1:]), t, n_steps=10, seed=0, bs=250) for name,t in (('clean',0.), ('two_part',T))[:1+noisy]}
        for o in out.glob(f'{k}-*.webp'): o.unlink()
        return {name:write_sheets(out, f'{k}-{name}', x.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy(), 99, 200) for name,x in drawn.items()}
    def ood():
        report = ood_report({k:o.model for k,o in loaded.items()}, u, dict(other=images(data, 'other', toy)), n_bits=8, seed=0, bs=256)
        done['ood tables'] = report['tables']
        return report['summary']
    out.mkdir(parents=True, exist_ok=True)
    parts = dict(sanity=sanity, ood=ood) # first what the trainings were for
    parts |= {f'{name} of {k}':lambda f=f, k=k, o=o: f(k, o) for name,f in dict(seconds=draw, pictures=pictures, sheets=sheets).items() for k,o in loaded.items()}
    failed = {}
    for k,f in parts.items():
        begin = time.monotonic()
        try: done[k] = f()
        except Exception as e: done[k],failed[k] = f'{type(e).__name__}: {e}',e
        print(k, done[k], f'{time.monotonic()-begin:.1f} s', flush=True)
        save(out/'draw.json', **done)
    if len(failed)==len(parts): raise SystemExit(1)
