#!/usr/bin/env python3
"""Crops in native pixels, as a data file.

    python tools/crops.py --size 16 --root data --out cifar16.npz          CIFAR-10, downloaded before by `get_dls('cifar10', download=True)`
    python tools/crops.py --size 16 --source cifar10.npz --out cifar16.npz      the same from x_train, y_train, x_test, y_test in the order of the public set
    python tools/crops.py --size 8 --source faces.npz --per 8 --out faces8.npz      any other set of x_train, x_test: `--per` crops of each image
    python tools/crops.py --size 8 --source svhn.npz --n 4000 --out svhn8.npz      a set of x alone, for out-of-distribution detection: the first images of SVHN's test set

CIFAR-10 gives 40,000 crops to train, 2,000 to validate, 2,000 to test, one of each image; the test crops are of the first 1,000 test images and of 1,000 training images
held out. Of another set the first half of the test images validates."""
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from torchvision.datasets import CIFAR10
from ncml.learner import new_files

names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()

def read(source, root):
    "Arrays by name"
    if source:
        with np.load(source) as f: return {k:f[k] for k in f.files}
    (x,y),(x_test,y_test) = [(d.data, np.array(d.targets)) for part in (True,False) for d in [CIFAR10(root, train=part)]]
    return dict(x_train=x, y_train=y, x_test=x_test, y_test=y_test)

def crops(x, size, seed, per=1):
    x,rng = np.repeat(x, per, 0),np.random.default_rng(seed)
    i,j = rng.integers(0, x.shape[1]+1-size, (2,len(x))) # of square images
    return np.stack([o[a:a+size,b:b+size] for o,a,b in zip(x, i, j, strict=True)])

def cifar(f, size):
    x,y,x_test,y_test = (f[k] for k in ('x_train','y_train','x_test','y_test'))
    return dict(x_train=crops(x[:40000], size, 0), x_valid=crops(x[40000:42000], size, 1), y_train=y[:40000], y_valid=y[40000:42000],
        x_test=crops(np.concatenate([x_test[:1000], x[42000:43000]]), size, 2), y_test=np.concatenate([y_test[:1000], y[42000:43000]]), classes=np.array(names))

def other(f, size, per):
    half = len(f['x_test'])//2
    return {f'x_{k}':crops(x, size, i, per) for i,(k,x) in enumerate(dict(train=f['x_train'], valid=f['x_test'][:half], test=f['x_test'][half:]).items())}

@call_parse
def main(
    size:int=16, # of a side
    source:str='', # .npz file with the whole set (default: the public CIFAR-10 below `root`)
    root:str='data',
    per:int=1, # crops of an image, for sets other than CIFAR-10
    n:int=0, # most images of `x` (default: all)
    out:str='crops.npz', # file to write
):
    "Write crops of a set of images"
    f = read(source, root)
    side = f['x' if 'x' in f else 'x_train'].shape[1]
    if size>side: raise ValueError(f"size: need at most {side}, got {size}")
    if 'x' in f: made = dict(x=crops(f['x'][:n or None], size, 0, per))
    else: made = (cifar(f, size) if 'y_train' in f else other(f, size, per)) | dict(n_bits=8)
    with new_files(Path(out)) as (p,), open(p, 'wb') as g: np.savez_compressed(g, **made)
    print(f'{out}: ' + ', '.join(f'{v.shape} {k}' for k,v in made.items() if k[0]=='x'))
