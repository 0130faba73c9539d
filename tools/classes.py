#!/usr/bin/env python3
"""Do class-conditional draws show their class (Figure 5 of the paper, left)? The share that a classifier, trained on the real images, recognises.

    python tools/classes.py runs/classes/classes-ml,runs/classes/classes-vp --out nbs/results/classes/fashion.json --picture nbs/images/classes.png

ML draws at t = 0, NCML at t = 0 and in two parts. The picture has a row for each class: eight two-part draws of the last model."""
from pathlib import Path
import torch
from fastcore.script import call_parse
from scipy import stats
from ncml.commands.shell import command_line
from ncml.data.levels import save_grid
from ncml.data.loaders import get_dls
from ncml.instruments.quality import accuracy, train_features
from ncml.learner import load_run, made_with
from ncml.sampling import sample_ncml
from measure import write

@call_parse
def main(
    folders:str, # folders of finished class-conditional jobs on the same images, with commas between
    out:str='classes.json', # file of the result
    picture:str='', # file of the picture
    n:int=20, # draws of each class
    steps:int=10, # of the refinement
    seed:int=0,
):
    "Measure how often draws show their class"
    folders,rows = [Path(o) for o in folders.split(',')],{}
    runs = {o.name:load_run(o/'run') for o in folders}
    data = next(iter(runs.values())).config['data']
    net = train_features(get_dls(data['source'], seed=data['seed'], root=data['root'], device='cpu'), seed=0)
    u,y = next(iter(runs.values())).images('test')
    k = len(data['classes'])
    want = torch.arange(k).repeat_interleave(n)
    for name,run in runs.items():
        noise = run.config['noise']
        for part,t in dict(clean=0., samples=noise['t_max']).items():
            if t and noise['p_clean']==1: continue
            x = sample_ncml(run.model, run.sde, (len(want),*u.shape[1:]), t, want, steps, sampler=run.model.sampler, seed=seed, bs=100)
            share = accuracy(net, x, want)
            low,high = stats.binomtest(round(share*len(want)), len(want)).proportion_ci()
            rows[f'{name}-{part}'] = dict(weights=run.config['weights_sha256'][:16], noise=noise, share=share, low=low, high=high, n=len(want))
            print(name, part, rows[f'{name}-{part}'], flush=True)
    if picture: save_grid(x.view(k, n, *x.shape[1:])[:,:8].flatten(0, 1), data['n_bits'], picture, ncol=8)
    words = dict(folders=','.join(runs), out=Path(out).name, picture=Path(picture).name, n=n, steps=steps, seed=seed)
    command = command_line(main, words).replace('main', 'python tools/classes.py', 1)
    write(Path(out), dict(command=command, data=Path(data['source']).name, real=accuracy(net, u, y), rows=rows) | made_with())
