#!/usr/bin/env python3
"""Train the models that come with the package, by the commands below, and put them into `ncml/pretrained`.

    python tools/pretrained.py digits-vp,digits-ml,digits-classes,digits-scoreflow
    python tools/crops.py --size 16 --out cifar16.npz
    python tools/pretrained.py colour-vp,colour-ml          hours on a CPU; the same command goes on where it was stopped

A model's `config.json` keeps the command and the figures: bits per dimension of test images after changing a share π of their values by a level,
with the averaged weights, and of validation images with the averaged and with the last weights."""
import json
import shlex
import shutil
import subprocess
from pathlib import Path
import pandas as pd
from fastcore.script import call_parse
from ncml.learner import image_digest, load_run
from ncml.sanity import plus_minus_one, sanity_test

digits = '--data digits --net n_filters=24'
colour = '--data cifar16.npz --arch tiny --net n_filters=36 --epochs 3 --bs 32'
commands = {'digits-vp':digits, 'digits-ml':digits+' --objective ml', 'digits-classes':digits+' --class_cond',
    'digits-scoreflow':'--data digits --objective scoreflow --flow dequantizer=variational', 'colour-vp':colour, 'colour-ml':colour+' --objective ml'}
root = Path(__file__).resolve().parent.parent/'ncml'/'pretrained'

def trained(name):
    "The run folder of a finished training, begun or resumed where there is none"
    path = Path('runs')/name
    words = shlex.split(commands[name]) + ['--run', str(path), '--n_samples', '8']
    if path.with_name(name+'.partial').exists() or (path/'checkpoints').exists(): words = ['--resume', str(path)]
    if not path.exists() or '--resume' in words: subprocess.run(['ncml_train', *words], check=True)
    return path

def figures(run, history):
    u,y = run.images('test')
    rows = sanity_test(run.model, u, run.model.n_bits, y if run.model.n_classes else None, perturb=plus_minus_one, seed=0)
    last = pd.read_csv(history).iloc[-1]
    return dict(test=dict(n=len(u), digest=image_digest(u, run.model.n_bits), pi=rows.pi.tolist(), bpd=rows.bpd.round(4).tolist()),
        valid={k:round(float(last[k]), 4) for k in ('bpd','raw')})

@call_parse
def main(names:str): # of `commands`, with commas between
    "Train models and put them into the package"
    for name in names.split(','):
        path,out = trained(name),root/name
        run = load_run(path)
        config = run.config | dict(figures=figures(run, path/'history.csv'))
        config['data'] |= dict(source=Path(config['data']['source']).name, root='data') # of this machine: nobody else's
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        shutil.copy(path/'weights.safetensors', out)
        (out/'config.json').write_text(json.dumps(config, indent=1)+'\n')
        print(name, config['figures'], f"{(out/'weights.safetensors').stat().st_size/1e6:.2f} MB", flush=True)
