#!/usr/bin/env python3
"""Out-of-distribution detection by runs of the digits job, and write what came out as JSON: `tools/ood.py --help`."""
import json
import shlex
import sys
from pathlib import Path
import torch
from fastcore.script import call_parse
from ncml.commands.evaluate import trained_by
from ncml.data.levels import reduce_bits
from ncml.data.loaders import digits, photo_patches
from ncml.learner import load_run
from ncml.ood import constant_images, ood_report, uniform_images

n_bits,shape = 4,(1,8,8)

@call_parse
def main(
    runs:Path, # Folder with the runs
    out:Path, # JSON file to write
    names:str='digits-ml,digits-pixelcnn,digits-ncml-vp,digits-ncml-subvp,digits-ncml-ve,digits-ncml-vp-4,digits-ncml-vp-05', # Runs in it, the first is the one to compare with
    profile:str='digits-ncml-vp', # The one that gives the profile over t
    n:int=500, # Images of each generated set
    seed:int=0, # Of the sets and the bootstrap
):
    torch.set_num_threads(1)
    names,data = names.split(','),digits()
    loaded = {o:load_run(runs/o) for o in names}
    for o,run in loaded.items():
        if run.config['data']['source']!='digits' or run.config['data']['seed']!=0: raise SystemExit(f"names: need runs on the digits with their split of seed 0, got {o}")
    u,models = data['test'][0],{k:o.model for k,o in loaded.items()}
    photos = reduce_bits(photo_patches(8, n, seed=seed).float().mean(1, keepdim=True).round().byte(), n_bits)
    sets = dict(constant=constant_images(n, shape, n_bits, seed), uniform=uniform_images(n, shape, n_bits, seed), photos=photos, mirrored=u.flip(-1))
    last = loaded[profile]
    levels = [o for o in (0., .1, .25, .5, 1., 1.5) if o==0 or last.sde.t_at_levels(o, n_bits)<=last.config['noise']['t_max']*(1+1e-6)]
    ts = [min(last.sde.t_at_levels(o, n_bits), last.config['noise']['t_max']) if o else 0. for o in levels]
    shared = dict(n_bits=n_bits, seed=seed)
    result = dict(
        command=shlex.join(['python', 'tools/ood.py', *({str(runs):'RUNS', str(out):'OUT'}.get(o, o) for o in sys.argv[1:])]),
        runs={k:{c:o.config[c] for c in ('weights_sha256','sde','noise','data')} | dict(
            command=trained_by(o.config), seconds=o.config['training']['seconds'], versions=o.config['training']['versions'] | {c:o.config[c] for c in ('ncml','torch')},
            sanity=[s for s in json.loads((runs/k/'sanity.json').read_text()) if s['perturbation']=='lsb_flip']) for k,o in loaded.items()},
        sets=dict(digits='test images of ncml.data.loaders.digits()', constant='constant_images', uniform='uniform_images', photos="photo_patches(8), mean of the colours, reduced to 4 bits",
                  mirrored='the test digits, left and right swapped', unseen='validation digits, of the same kind: a control'),
        kinds=ood_report(models, u, sets, **shared),
        control=ood_report(models, u, dict(unseen=data['valid'][0]), **shared),
        profile=ood_report({profile:models[profile]}, u, sets, t=ts, info=dict(levels=levels), **shared))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, allow_nan=False)+'\n')
    for o in (result['kinds'], result['control']): print(*o['summary'], sep='\n')
    print(result['kinds']['link'])
