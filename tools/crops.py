#!/usr/bin/env python3
"""Crops of CIFAR-10 in native pixels, as a data file: 40,000 to train, 2,000 to validate, 2,000 to test.

    python tools/crops.py --size 16 --root data --out cifar16.npz          the public set, downloaded before by `get_dls('cifar10', download=True)`
    python tools/crops.py --size 16 --source cifar10.npz --out cifar16.npz      x_train, y_train, x_test, y_test in the order of the public set

Every image gives one crop at a random place. The test crops are of the first 1,000 test images and of 1,000 training images held out."""
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from torchvision.datasets import CIFAR10
from ncml.learner import new_files

names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()

def read(source, root):
    "Images (n,32,32,3) and labels (n,) of both parts"
    if source:
        with np.load(source) as f: return [f[k] for k in ('x_train','y_train','x_test','y_test')]
    return [o for part in (True,False) for d in [CIFAR10(root, train=part)] for o in (d.data, np.array(d.targets))]

def crops(x, size, seed):
    rng = np.random.default_rng(seed)
    i,j = rng.integers(0, 33-size, (2,len(x)))
    return np.stack([o[a:a+size,b:b+size] for o,a,b in zip(x, i, j, strict=True)])

@call_parse
def main(
    size:int=16, # of a side
    source:str='', # .npz file with the whole set (default: the public set below `root`)
    root:str='data',
    out:str='crops.npz', # file to write
):
    "Write crops of CIFAR-10"
    x,y,x_test,y_test = read(source, root)
    held = x[42000:43000]
    with new_files(Path(out)) as (p,), open(p, 'wb') as f:
        np.savez_compressed(f, x_train=crops(x[:40000], size, 0), x_valid=crops(x[40000:42000], size, 1), y_train=y[:40000], y_valid=y[40000:42000],
            x_test=crops(np.concatenate([x_test[:1000], held]), size, 2), y_test=np.concatenate([y_test[:1000], y[42000:43000]]), classes=np.array(names), n_bits=8)
