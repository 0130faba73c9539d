#!/usr/bin/env python3
"""Time, memory and sampling of this library side by side with another implementation, ratios first: `tools/bench.py --help`.

Everything takes turns in one process and each round gives one ratio, since a machine drifts; `torch.utils.benchmark` times one thing after the
other by the wall clock, so it does not serve here. Profiles come from `torch.profiler`."""
import hashlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import types
import warnings
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import torch
from fastcore.script import call_parse, store_true
from fastprogress.fastprogress import progress_bar
from torch import nn,Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from ncml.fast.cached import PixelCache, sample_cached
from ncml.fast.layers import compile_blocks
from ncml.fast.likelihood import fast_mixtures
from ncml.logistic import DiscretizedLogisticMixture
from ncml.ncpn import NCPN, ncpn, preset, summary
from ncml.sde import to_unit

def clock(
    device='cpu', # Where the work is done
)->float: # Seconds
    "CPU time of this process; on a GPU the wall clock, after all queued work"
    if torch.device(device).type=='cpu': return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()

def interleave(
    fns:dict, # Functions without arguments by name
    rounds:int=5, # How often each is timed
    warmup:int=1, # Turns before that, not counted
    device='cpu', # Where they compute
    now=None, # Clock to use instead of `clock`
)->pd.DataFrame: # Seconds: a row for each round, a column for each function
    "Time functions in turns"
    now,rows = now or partial(clock, device),[]
    for _ in range(warmup+rounds):
        row = {}
        for name,f in fns.items():
            start = now()
            f()
            row[name] = now()-start
        rows.append(row)
    return pd.DataFrame(rows[warmup:])

def spread(
    v, # Numbers, one for each round
)->dict: # median, and the quartiles low and high
    "Median and interquartile range"
    q = pd.Series(v, dtype=float).quantile([.5,.25,.75])
    return dict(zip(('median','low','high'), q.tolist(), strict=True))

def ratios(
    times:pd.DataFrame, # As `interleave` gives
    pairs:list, # (name, name) of columns: the first over the second
)->dict: # `spread` by 'name / name'; pairs with a missing column are left out
    "Ratios round by round"
    return {f'{a} / {b}':spread(times[a]/times[b]) for a,b in pairs if a in times and b in times}

def compare(
    times:pd.DataFrame, # As `interleave` gives
    base:str, # Column that all are divided by
    n:int=1, # Images in a call
)->pd.DataFrame: # A row for each column: ratio, ratio_low, ratio_high, then ms of an image
    "What each function takes, over `base`, then in milliseconds"
    r = pd.DataFrame({k:spread(times[k]/times[base]) for k in times}).T
    return pd.DataFrame(dict(ratio=r['median'], ratio_low=r.low, ratio_high=r.high, ms=times.median()*1e3/n))

def _peer_info(path, files):
    "What results say of the peer"
    commit = None
    if (path/'.git').exists(): # else git would name a folder around it
        p = subprocess.run(['git','-C',str(path),'rev-parse','HEAD'], capture_output=True, text=True)
        commit = p.stdout.strip() or None
    return dict(path='PEER', commit=commit, sha256=hashlib.sha256(b''.join(o.read_bytes() for o in files)).hexdigest())

_peer_files = ('utils.py','layers.py','model.py') # in the order of their imports
_mends = {'print e\n':'print(e)\n', 'torch.zeros(xs + [nr_mix]).cuda()':'torch.zeros(xs + [nr_mix], device=x.device)'}

def _run_source(path, name):
    "The module that the text of `path` makes"
    text = path.read_text(encoding='utf-8')
    for old,new in _mends.items(): text = text.replace(old, new)
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, path.name, 'exec'), module.__dict__) # noqa: S102 (what importing it does)
    return module

def load_peer(
    path, # Checkout of pclucas14/pixel-cnn-pp
)->types.SimpleNamespace: # Its modules utils, layers and model, and `info`: the commit, if known, and a hash of the files
    "Import the peer, leaving `sys.modules` and `sys.path` as they were"
    files = [Path(path)/o for o in _peer_files]
    for o in files:
        if not o.is_file(): raise ValueError(f"peer: need a checkout of pclucas14/pixel-cnn-pp, and {path} has no {o.name}")
    before = dict(sys.modules)
    try: modules = {o.stem:_run_source(o, o.stem) for o in files}
    finally:
        for o in files:
            sys.modules.pop(o.stem, None)
            if o.stem in before: sys.modules[o.stem] = before[o.stem]
    for name,attr in (('model','PixelCNN'), ('utils','discretized_mix_logistic_loss'), ('utils','sample_from_discretized_mix_logistic')):
        if not hasattr(modules[name], attr): raise ValueError(f"peer: need a checkout of pclucas14/pixel-cnn-pp, and its {name}.py has no {attr}")
    return types.SimpleNamespace(**modules, info=_peer_info(Path(path), files))

class PeerModel(nn.Module):
    "The peer's network with `params` and a `log_prob` that is summed over the batch"
    def __init__(self, peer, filters:int, blocks:int, dropout:float=0.5):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore') # weight_norm is deprecated
            self.net = peer.model.PixelCNN(nr_resnet=blocks, nr_filters=filters, input_channels=3, nr_logistic_mix=10)
        self.peer = peer
        for m in self.net.modules():
            if isinstance(m, nn.Dropout2d): m.p = dropout

    def params(self, x:Tensor, t=None, y=None)->Tensor: # (n,3,h,w) -> (n,100,h,w)
        if self.net.init_padding is not None and self.net.init_padding.shape[::2]!=x[:,:1].shape[::2]: self.net.init_padding = None # of another batch
        return self.net(x)

    def params_log_prob(self, x:Tensor, params:Tensor)->Tensor: # -> scalar, nats
        return -self.peer.utils.discretized_mix_logistic_loss(x, params)

    def draw(self, x:Tensor)->Tensor: # (n,3,h,w), one draw of every pixel
        return self.peer.utils.sample_from_discretized_mix_logistic(self.net(x, sample=True), 10)

    def log_prob(self, x:Tensor, t=None, y=None)->Tensor: return self.params_log_prob(x, self.params(x)) # scalar, nats

@dataclass
class Setup:
    "A width, and how it is measured"
    filters:int=40 # Width of the network
    blocks:int=2 # Residual blocks at each scale
    bs:int=8 # Images in a batch
    side:int=32 # Height and width of the images
    rounds:int=5 # How often each thing is timed
    device:str='cpu'
    seed:int=0 # Of images and weights
    dropout:float=0.5 # Of both networks in training; the peer's own
    eager:bool=False # Leave `torch.compile` out?
    peer:object=None # As `load_peer` gives

    def x(self, n:int|None=None)->Tensor: # (n,3,side,side) in [-1,1]
        "Random images on the grid of 8 bits"
        g = torch.Generator().manual_seed(self.seed)
        return to_unit(torch.randint(256, (n or self.bs,3,self.side,self.side), generator=g), 8).to(self.device)

    def ours(self, recompute='attention', **changes)->NCPN:
        "Our network, the preset 'pixelcnn++' with `changes`"
        torch.manual_seed(self.seed)
        own = dict(n_filters=self.filters, n_blocks=self.blocks, dropout=self.dropout)
        return NCPN(3, 8, **preset('pixelcnn++', **{**own, **changes})).to(self.device).speed_up(recompute=recompute)

    def rival(self)->PeerModel|None:
        "The peer's network, or none"
        if self.peer is None: return None
        torch.manual_seed(self.seed)
        net = PeerModel(self.peer, self.filters, self.blocks, self.dropout).to(self.device)
        own,its = (sum(p.numel() for p in o.parameters()) for o in (self.ours(), net))
        if own!=its: raise ValueError(f"peer: need a network of {own:,} parameters like ours at {self.filters}/{self.blocks}, got {its:,}")
        return net

    def paired(self)->dict:
        "Our network, and the peer's if there is one, by name"
        return dict(ours=self.ours()) | ({} if self.peer is None else dict(peer=self.rival()))

    def interleave(self, fns, **kwargs): return interleave(fns, self.rounds, device=self.device, **kwargs)

def _log_prob(model, x, dtype):
    with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None): return model.log_prob(x, x.new_zeros(len(x))).sum()

def train_step(model, x, opt, dtype=None)->float:
    "Forward, backward and optimizer; bits per dimension"
    loss = -_log_prob(model.train(), x, dtype)/(x.numel()*math.log(2))
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.detach()

@torch.no_grad()
def evaluate(model, x, dtype=None)->Tensor:
    "Bits per dimension of the batch"
    return -_log_prob(model.eval(), x, dtype)/(x.numel()*math.log(2))

def score_step(model, x, dtype=None)->Tensor: # Like `x`
    "Gradient of `log_prob` with respect to the images alone"
    x = x.detach().requires_grad_()
    return torch.autograd.grad(_log_prob(model.eval(), x, dtype), x)[0]

def _job(what, model, x, dtype=None):
    "One kind of work on `model`, as a function without arguments"
    if what=='train': return partial(train_step, model, x, torch.optim.Adam(model.parameters(), lr=2e-4), dtype)
    if what=='cached': return partial(sample_cached, model, tuple(x.shape))
    return partial(dict(eval=evaluate, score=score_step)[what], model, x, dtype)

def _compiled(b, what, x):
    "Compiled work in bf16, warm, and what compiling took"
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    job,start = _job(what, compile_blocks(b.ours()), x, torch.bfloat16),time.perf_counter()
    for _ in range(2): job()
    c = torch._dynamo.utils.counters
    cold = not any('cache_hit' in k and v for o in c.values() for k,v in o.items())
    return job,dict(seconds=time.perf_counter()-start, cold=cold, graphs=c['stats']['unique_graphs'], gave_up=c['frames']['ok']<c['frames']['total'])

def _times(times, n):
    "What a case tells after its ratios: milliseconds an image, and the seconds of every round"
    return dict(ms_per_image={k:spread(times[k]*1e3/n) for k in times}, seconds={k:times[k].tolist() for k in times})

def time_against_peer(
    b:Setup,
    what:str, # 'train', 'eval' or 'score'
)->dict: # ratios, ms_per_image, seconds, and of compiling
    "Ours in three precisions and the peer, interleaved"
    x,net,rival,info = b.x(),b.ours(),b.rival(),{}
    fns = {'ours':_job(what, net, x)} | ({} if rival is None else {'peer':_job(what, rival, x)})
    fns['ours bf16'] = _job(what, net, x, torch.bfloat16)
    if not b.eager: fns['ours bf16 compiled'],info['compile'] = _compiled(b, what, x)
    if what=='score':
        fns['forward'] = _job('eval', net, x)
        if rival is not None: fns['peer forward'] = _job('eval', rival, x)
    times = b.interleave(fns)
    pairs = [(k, 'peer') for k in fns if k.startswith('ours')] + [('ours','forward'), ('peer','peer forward'), ('ours bf16','ours'), ('ours bf16 compiled','ours')]
    return dict(ratios=ratios(times, pairs), **_times(times, b.bs), **info)

def _given(params, f):
    "Forward and backward from `params` to the sum of `f(params)`"
    params = params.detach().requires_grad_()
    return torch.autograd.grad(f(params).sum(), params)

def likelihood_share(b:Setup)->dict: # ratios, ms_per_image, seconds
    "The likelihood from given parameters over a training step, and over the peer's"
    x,net,rival = b.x(),b.ours(),b.rival()
    p = torch.randn(b.bs, net.out.out_channels, b.side, b.side, generator=torch.Generator().manual_seed(b.seed)).to(b.device)
    fns = dict(likelihood=partial(_given, p, lambda o: fast_mixtures[DiscretizedLogisticMixture](o, 3, 8).log_prob(x)), step=_job('train', net, x))
    if rival is not None: fns |= {'peer likelihood':partial(_given, p, partial(rival.params_log_prob, x)), 'peer step':_job('train', rival, x)}
    times = b.interleave(fns)
    return dict(ratios=ratios(times, [('likelihood','step'), ('peer likelihood','peer step'), ('likelihood','peer likelihood'), ('step','peer step')]), **_times(times, b.bs))

def saved_bytes(
    model, # With `log_prob`
    x:Tensor, # (n,c,h,w)
)->int: # Bytes
    "What autograd keeps of one forward pass in training, parameters not counted"
    weights,kept = {p.untyped_storage().data_ptr() for p in model.parameters()},{}
    def keep(o):
        s = o.untyped_storage()
        if s.data_ptr() not in weights: kept[s.data_ptr()] = s # held on to, so that no other takes its place
        return o
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda o: o): loss = _log_prob(model.train(), x, None)
    del loss
    return sum(s.nbytes() for s in kept.values())

def _saved_per_image(b, model): return saved_bytes(model, b.x(2)) - saved_bytes(model, b.x(1))

def _heads(filters): return next(n for n in (8, 4, 2, 1) if filters%(2*n)==0) # the papers' 8, or what the width allows

def saved_memory(b:Setup)->dict: # ratios, mb_per_image: 10⁶ bytes
    "Saved bytes of ours, plain, with blocks computed twice, and with attention, against the peer"
    nets = {'ours':b.ours(), 'ours blocks twice':b.ours(recompute='blocks'), 'ours with attention':b.ours(n_heads=_heads(b.filters), recompute='attention'),
            'ours with attention, nothing twice':b.ours(n_heads=_heads(b.filters), recompute='nothing'), 'peer':b.rival()}
    mb = {k:_saved_per_image(b, m)/1e6 for k,m in nets.items() if m is not None}
    pairs = [('ours','peer'), ('ours blocks twice','peer'), ('ours with attention','ours'), ('ours with attention, nothing twice','ours')]
    return dict(ratios={f'{a} / {c}':spread([mb[a]/mb[c]]) for a,c in pairs if c in mb}, mb_per_image=mb)

def _resident(key):
    "Bytes of memory that this process holds ('VmRSS') or held at most ('VmHWM')"
    try: return int(re.search(rf'^{key}:\s*(\d+)', Path('/proc/self/status').read_text(), re.M)[1])*1024
    except (OSError, TypeError):
        import resource # not on Windows
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)

def _peak_child():
    "In a process of its own: what is asked for on stdin, the answer on stdout"
    ask = json.loads(sys.stdin.read())
    torch.set_num_threads(ask['threads'])
    b = Setup(**ask['setup'], peer=ask['peer'] and load_peer(ask['peer']))
    before = _resident('VmRSS')
    job = _job('train', b.rival() if ask['peer'] else b.ours(**ask['changes']), b.x(), torch.bfloat16 if ask['bf16'] else None)
    for _ in range(2): job()
    print(json.dumps(_resident('VmHWM')-before))

def _peak_fresh(b, peer=None, changes=None, bf16=False):
    "Bytes at the peak of two training steps in a fresh process"
    setup = {k:v for k,v in vars(b).items() if k!='peer'}
    ask = dict(setup=setup, peer=peer and str(peer), changes=changes or {}, bf16=bf16, threads=torch.get_num_threads())
    p = subprocess.run([sys.executable,'-c',f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from bench import _peak_child; _peak_child()'], input=json.dumps(ask), capture_output=True, text=True)
    if p.returncode: raise ValueError(f"peak: the process that measures memory failed: {(p.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return json.loads(p.stdout.splitlines()[-1])

def _peak_here(b, model, bf16):
    "The same on a GPU, in this process"
    before = torch.cuda.memory_allocated(b.device)
    torch.cuda.reset_peak_memory_stats(b.device)
    job = _job('train', model, b.x(), torch.bfloat16 if bf16 else None)
    for _ in range(2): job()
    return torch.cuda.max_memory_allocated(b.device)-before + sum(p.nbytes for p in model.parameters())

def peak_memory(
    b:Setup,
    path=None, # The peer's checkout: a fresh process loads it again
)->dict: # ratios, mb: 10⁶ bytes of the whole batch
    "Peak memory of a training step, of ours and the peer"
    kinds = {'ours':{}, 'ours bf16':dict(bf16=True), 'ours blocks twice':dict(changes=dict(recompute='blocks'))} | ({'peer':dict(peer=path)} if b.peer else {})
    mb = {}
    for k,o in kinds.items():
        if torch.device(b.device).type=='cpu': mb[k] = _peak_fresh(b, **o)/1e6
        else: mb[k] = _peak_here(b, b.rival() if k=='peer' else b.ours(**o.get('changes', {})), 'bf16' in o)/1e6
    return dict(ratios={f'{k} / peer':spread([mb[k]/mb['peer']]) for k in mb if k!='peer' and 'peer' in mb}, mb=mb)

@torch.no_grad()
def _naive_pixel(model, x):
    "What `sample_ar` does for one pixel"
    i,j = (o//2 for o in x.shape[-2:])
    d = model.eval().dist(x, x.new_zeros(len(x)))
    x[...,i,j] = d.sample()[...,i,j]

@torch.no_grad()
def _naive_pixel_peer(model, x):
    "What the peer's own sampling loop does for one pixel"
    i,j = (o//2 for o in x.shape[-2:])
    x[...,i,j] = model.eval().draw(x)[...,i,j]

def sampling(
    b:Setup,
    n:int, # Images at a time
    attention:bool=False, # With attention? Then against its own naive sampler only
)->dict: # ratios, ms_per_image, seconds, scaled
    "Cached against naive sampling, of ours and of the peer, and against one evaluation"
    net,x,rival = b.ours(**(dict(n_heads=_heads(b.filters)) if attention else {})),b.x(n),None if attention else b.rival()
    fns = {'cached':partial(sample_cached, net, tuple(x.shape)), 'forward':_job('eval', net, x), 'naive':partial(_naive_pixel, net, x.clone())}
    if rival is not None: fns['naive peer'] = partial(_naive_pixel_peer, rival, x.clone())
    times,scaled = b.interleave(fns),[k for k in fns if k.startswith('naive')]
    times[scaled] *= b.side**2
    r = ratios(times, [('naive peer','cached'), ('naive','cached'), ('cached','forward'), ('naive','naive peer')])
    return dict(ratios=r, **_times(times, n), scaled={k:dict(scaled=True, timed_passes=b.rounds, passes=b.side**2) for k in scaled})

def cached_params(cache, x, t):
    "`NCPN.params`, pixel by pixel"
    out = []
    cache.begin(t, None)
    for r in range(cache.h):
        cache.start_row(r)
        cache.row(cache.n_active(r))
        for j in range(cache.w):
            out.append(cache.pixel(j, cache.n_active(r)))
            cache.write(j, x[:,:,r,j])
        cache.end_row(r)
    return torch.stack(out, -1).unflatten(-1, (cache.h, cache.w))

@torch.no_grad()
def same_params(b:Setup)->dict: # errors: largest difference by dtype
    "Parameters from the cache against those of one pass"
    errors = {}
    for dtype in (torch.float64, torch.float32):
        net,x = b.ours(n_heads=_heads(b.filters), t_max=0.1).eval().to(dtype),replace(b, side=8).x(2).to(dtype)
        t = torch.tensor([0., 0.1], dtype=dtype, device=x.device)
        errors[str(dtype).removeprefix('torch.')] = (net.params(x, t)-cached_params(PixelCache(net, 2, 8, 8), x, t)).abs().max().item()
    return dict(errors=errors)

_axes = dict(bs=(1,2,4,8,16,32,64), filters=(16,40,80,160), side=(8,16,32,64))

def growth(
    b:Setup,
    what:str, # 'train' or 'sampling'
    axis:str, # 'bs', 'filters' or 'side'
    sizes:tuple|None=None, # Default `_axes[axis]`
)->dict: # rows: for each size the ratio to the peer if there is one, and ms_per_image
    "Cost of an image against one thing"
    fns,at = {},{s:replace(b, **{axis:s}) for s in sizes or _axes[axis]}
    for s,c in at.items():
        if what=='sampling': fns[s,'ours'] = partial(sample_cached, c.ours(), (c.bs,3,c.side,c.side))
        else:
            fns[s,'ours'] = _job('train', c.ours(), c.x())
            if c.peer is not None: fns[s,'peer'] = _job('train', c.rival(), c.x())
    times = b.interleave(fns)
    def row(s, c): return {axis:s} | ({'ours / peer':spread(times[s,'ours']/times[s,'peer'])} if (s,'peer') in fns else {}) | {
        f'{k} ms_per_image':spread(times[s,k]*1e3/c.bs) for k in ('ours','peer') if (s,k) in fns}
    return dict(rows=[row(s, c) for s,c in at.items()])

def matmul_rate(
    device, # Where
    n:int=8192, # Rows and columns
    rounds:int=10, # Median over so many
)->float: # Operations a second
    "Rate of one bf16 matrix product"
    a,b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2*n**3/interleave(dict(mm=lambda: a@b), rounds, warmup=3, device=device).mm.median()

def throughput(
    b:Setup, # Of which device, rounds and seed count
    arch:str, # One of `presets`
    n:int=64, # Images in a batch
)->dict: # ratios: share of the matrix product's rate; images_per_s; tflops
    "Images a second in training, bf16 and compiled"
    torch.manual_seed(b.seed)
    net = ncpn(arch, dropout=0.25).to(b.device)
    flop,x = 3*summary(net)['gflop']*1e9,replace(b, side=32).x(n)
    if not b.eager: compile_blocks(net)
    s = interleave(dict(step=_job('train', net, x, torch.bfloat16)), b.rounds, warmup=3, device=b.device).step
    rate = matmul_rate(b.device)
    return dict(ratios={'training / matrix product':spread(flop*n/s/rate)}, images_per_s=spread(n/s), tflops=dict(training=spread(flop*n/s/1e12), matmul=rate/1e12))

def gpu_samples(
    b:Setup,
    n:int, # Images
)->dict: # ratios, ms_per_image, seconds, scaled
    "Seconds for `n` samples: cached with graphs, cached without, naive"
    o = sampling(b, n)
    net = b.ours()
    times = b.interleave({f'cached, {k}':partial(sample_cached, net, (n,3,b.side,b.side), capture=v) for k,v in {'graphs':'auto', 'no graphs':None}.items()})
    more = dict(ratios=ratios(times, [('cached, no graphs','cached, graphs')]), **_times(times, n))
    return {k:{**v, **more.get(k, {})} if isinstance(v, dict) else v for k,v in o.items()}

_groups = (('attention', r'scaled_dot|attention'), ('matrix products and convolutions', r'conv|mm\b|matmul|linear|baddbmm'),
           ('copies', r'copy|cat\b|clone|contiguous|pad|slice|select|fill_|zero_|zeros|index|gather|stack'),
           ('elementwise', r'add|mul|sub|div|neg|elu|sigmoid|glu|silu|tanh|exp|log|pow|where|clamp|dropout|bernoulli|random|softplus|softmax|sum|mean|norm|sqrt|abs|fused|lt|gt|ge|le\b|max|min'))

def _scope(e):
    "Which of the scopes an event lies in, by the events around it"
    inside = False
    while e is not None:
        if e.name.startswith('Optimizer.'): return 'optimizer'
        if 'weight_norm' in e.name or 'WeightNorm' in e.name: return 'weight norm'
        if e.name=='network': inside = True
        if e.name=='log_prob': return None if inside else 'likelihood'
        e = e.cpu_parent
    return None

def _backward_node(e):
    "The number that joins a backward event to its forward event"
    while e is not None:
        if e.name.startswith('autograd::engine::evaluate_function'): return e.sequence_nr
        e = e.cpu_parent
    return None

def _labels(events):
    "The group of each event"
    scope = {id(e):_scope(e) for e in events}
    of = {e.sequence_nr:scope[id(e)] for e in events if e.sequence_nr>=0 and _backward_node(e) is None and scope[id(e)]}
    def label(e): return scope[id(e)] or of.get(_backward_node(e)) or next((k for k,r in _groups if re.search(r, e.name)), 'other')
    return [label(e) for e in events]

def _record(model, x, what, dtype, rounds):
    "The events of `rounds` calls, after one that is not recorded"
    job,params,log_prob = _job(what, model, x, dtype),model.params,model.log_prob
    def network(*args):
        with record_function('network'): return params(*args)
    def whole(*args):
        with record_function('log_prob'): return log_prob(*args)
    job()
    if what!='cached': model.params,model.log_prob = network,whole # which a cached sampler would refuse
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if x.is_cuda else [])
    try:
        with profile(activities=kinds) as p:
            for _ in range(rounds): job()
    finally:
        if what!='cached': del model.params,model.log_prob
    return p.events()

def profile_step(
    model, # With `params` and `log_prob`
    x:Tensor, # (n,c,h,w)
    what:str='train', # 'train', 'eval', 'score', or 'cached' for as many samples as `x` has
    dtype=None, # `torch.bfloat16` for autocast
    rounds:int=2, # Calls under the profiler, after one without
)->pd.DataFrame: # A row for each group: share, ms of a call; largest first
    "Where the time of one kind of work goes"
    events = _record(model, x, what, dtype, rounds)
    own = [e.self_device_time_total if x.is_cuda else e.self_cpu_time_total for e in events] # microseconds
    total = pd.Series(own, dtype=float).groupby(_labels(events)).sum().sort_values(ascending=False)
    return pd.DataFrame(dict(share=total/total.sum(), ms=total/1e3/rounds))

def profiles(b:Setup)->dict: # shares by network and work, ms
    "Where training and evaluation spend their time, ours and the peer, and cached sampling of 8 batches at half the side"
    kinds = {'train':('train', None), 'train bf16':('train', torch.bfloat16), 'eval':('eval', None), 'eval bf16':('eval', torch.bfloat16), 'score':('score', None)}
    info = {f'{n}, {k}':profile_step(m, b.x(), *o) for n,m in b.paired().items() for k,o in kinds.items() if n=='ours' or o[1] is None}
    many = replace(b, side=b.side//2).x(8*b.bs)
    for k,o in {'ours, cached':{}, 'ours with attention, cached':dict(n_heads=_heads(b.filters))}.items(): info[k] = profile_step(b.ours(**o).eval(), many, 'cached', rounds=1)
    return dict(shares={k:o.share.to_dict() for k,o in info.items()}, ms={k:o.ms.to_dict() for k,o in info.items()})

def _goal_rows(width):
    "(goal, case, where in it, least or most, target, stretch)"
    def r(k): return ('ratios', k)
    rows = [('train step, fp32', 'train', r('ours / peer'), '≤', .85, .65)]
    for k in ('bf16','bf16 compiled'): rows.append((f'train step, {k}', 'train', r(f'ours {k} / peer'), '≤', .33 if width=='160/5' else .5, .25))
    for k,a,s in (('', .85, .7), (' bf16', .5, .4), (' bf16 compiled', .3, .2)): rows.append((f"evaluation,{k or ' fp32'}", 'eval', r(f'ours{k} / peer'), '≤', a, s))
    rows += [('score over own forward', 'score', r('ours / forward'), '≤', 2.1, 2.), ('score, fp32', 'score', r('ours / peer'), '≤', .75, .6)]
    if width=='40/2':
        for n,a,s in ((1, 140, 500), (16, 550, 800), (64, 900, 1000)): rows.append((f'naive peer over cached, batch {n}', f'sampling-{n}', r('naive peer / cached'), '≥', a, s))
    rows += [('cached image in own forwards, batch 64', 'sampling-64', r('cached / forward'), '≤', 1.15, 1.05),
             ('the same with attention', 'attention-64', r('cached / forward'), '≤', 2., 1.4),
             ('cached = full parameters, float64', 'equality', ('errors','float64'), '≤', 1e-10, None), ('cached = full parameters, float32', 'equality', ('errors','float32'), '≤', 1e-5, None),
             ('saved bytes', 'saved', r('ours / peer'), '≤', .8, .6), ('saved bytes, blocks twice', 'saved', r('ours blocks twice / peer'), '≤', .33, .25),
             ("attention's saved bytes over none", 'saved', r('ours with attention / ours'), '≤', 1.5, 1.3),
             ("likelihood's share of the step", 'likelihood', r('likelihood / step'), '≤', .02, .01)]
    if width=='160/5': rows.append(('training over a matrix product, bf16', 'throughput-pixelcnn++', r('training / matrix product'), '≥', .2, .35))
    return rows

def goals(
    result:dict, # What `tools/bench.py` writes
)->pd.DataFrame: # A row for each goal: what is to be ≤ or ≥ `target`, its measured median and quartiles, and `met`: 'stretch', 'target', 'no', or '' where not measured
    "The goals beside what was measured"
    rows = []
    for width,cases in result['results'].items():
        for goal,case,(a,k),sense,target,stretch in _goal_rows(width):
            v = cases.get(case, {}).get(a, {}).get(k)
            v = v if isinstance(v, dict) or v is None else dict(median=v, low=v, high=v)
            def reached(limit, v=v, sense=sense): return limit is not None and (v['median']<=limit if sense=='≤' else v['median']>=limit)
            met = '' if v is None else 'stretch' if reached(stretch) else 'target' if reached(target) else 'no'
            rows.append(dict(width=width, goal=goal, sense=sense, target=target, stretch=stretch, **{o:v and v[k] for o,k in (('measured','median'), ('low','low'), ('high','high'))}, met=met))
    return pd.DataFrame(rows).astype({k:float for k in ('target','stretch','measured','low','high')})

def _cases(b, path):
    "Functions without arguments by group and name"
    n_all,gpu = (1, 16, 64),torch.device(b.device).type=='cuda'
    groups = dict(
        train=dict(train=partial(time_against_peer, b, 'train')), eval=dict(eval=partial(time_against_peer, b, 'eval')),
        score=dict(score=partial(time_against_peer, b, 'score')), likelihood=dict(likelihood=partial(likelihood_share, b)),
        memory=dict(saved=partial(saved_memory, b), peak=partial(peak_memory, b, path)), profile=dict(profile=partial(profiles, b)),
        sampling={'equality':partial(same_params, b)} | {f'sampling-{n}':partial(sampling, b, n) for n in n_all} | {f'attention-{n}':partial(sampling, b, n, True) for n in n_all},
        growth={f'growth-{k}-{a}':partial(growth, b, k, a) for k in ('train','sampling') for a in _axes})
    if gpu: groups['gpu'] = {f'throughput-{o}':partial(throughput, b, o) for o in ('pixelcnn++','papers')} | {f'samples-{n}':partial(gpu_samples, b, n) for n in (16, 64)}
    return groups

def _pick(groups, only):
    "The cases of the groups, or with the names, in `only`"
    names = list(groups) + [k for o in groups.values() for k in o]
    for o in only or ():
        if o not in names: raise ValueError(f"only: need some of {', '.join(names)}, got {o!r}")
    return {k:f for g,o in groups.items() for k,f in o.items() if not only or g in only or k in only}

def _device_name(device):
    "The GPU's name, or the processor's"
    if torch.device(device).type=='cuda': return torch.cuda.get_device_name(device)
    try: found = re.search(r'^model name\s*:\s*(.+)$', Path('/proc/cpuinfo').read_text(), re.M)
    except OSError: found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

def _header(b, threads):
    "What must be the same for a file to be resumed"
    config = {k:v for k,v in vars(b).items() if k not in ('filters','blocks','peer')} | dict(threads=threads, peer=b.peer and b.peer.info)
    source = b''.join(p.read_bytes() for p in sorted(Path(str(files('ncml'))).rglob('*.py')))
    versions = {k:version(k) for k in ('ncml','torch','fastai')} | dict(python=platform.python_version(), source=hashlib.sha256(source).hexdigest()[:16])
    return dict(config=config, versions=versions, device=f"{_device_name(b.device)}, {'GPU' if torch.device(b.device).type=='cuda' else f'{threads} thread'+'s'*(threads>1)}")

def _command():
    "The command line, without the peer's path and the file's"
    argv,paths = sys.argv[1:],('--peer','--out')
    return shlex.join(['python', 'tools/bench.py', *(argv[i-1][2:].upper() if i and argv[i-1] in paths else o for i,o in enumerate(argv))])

def _start_file(out, head, fresh):
    "What `out` holds, if it can be resumed, or a new result"
    if fresh or not out.exists(): return dict(head, commands=[], results={})
    try: old = json.loads(out.read_text(encoding='utf-8'))
    except ValueError: old = None
    if not isinstance(old, dict): raise ValueError(f"out: {out.name} is no result of tools/bench.py; --fresh starts it over")
    for k,v in head.items():
        if old.get(k)==v: continue
        was = old.get(k)
        differ = [o for o in v if v[o]!=was.get(o)] if isinstance(v, dict) and isinstance(was, dict) else [k]
        raise ValueError(f"out: {out.name} was made with another {k} ({', '.join(differ)}): give another --out, or --fresh to start over")
    return old

def _write(out, result):
    "In one step, so that a crash leaves the last state"
    part = out.with_name(out.name+'.partial')
    part.write_text(json.dumps(result, indent=1, ensure_ascii=False)+'\n', encoding='utf-8')
    os.replace(part, out)

def _show_case(width, name, o):
    "A case in lines: its ratios, then its times or bytes, or its rows"
    print(f'{width} {name}: {o["seconds_taken"]:.0f} s')
    if o.get('compile', {}).get('gave_up'): print(f"  compiled: PyTorch gave up after {o['compile']['graphs']} graphs")
    for k,v in o.get('ratios', {}).items(): print(f"  {k:40} {v['median']:8.3f}  ({v['low']:.3f} to {v['high']:.3f})")
    for k,v in o.get('ms_per_image', {}).items(): print(f"  {k:40} {v['median']:8.1f} ms an image{', scaled' if k in o.get('scaled', {}) else ''}")
    for unit in ('mb_per_image','mb'):
        for k,v in o.get(unit, {}).items(): print(f"  {k:40} {v:8.1f} {unit.replace('_', ' ').replace('mb', 'MB')}")
    for r in o.get('rows', []): print('  '+', '.join(f"{k} {v['median'] if isinstance(v, dict) else v:.4g}" for k,v in r.items()))
    for k,v in o.get('errors', {}).items(): print(f'  {k:40} {v:.1e} apart')
    for k,v in o.get('shares', {}).items(): print(f'  {k:16} '+', '.join(f'{g} {p:.1%}' for g,p in v.items()))

def _run_cases(b, widths, peer, only, result, out):
    "Measure what `result` lacks, and write it after each case"
    todo = [(f, k, name, case) for i,(f,k) in enumerate(widths) for name,case in _pick(_cases(replace(b, filters=f, blocks=k), peer), only).items()
            if not (i and name.startswith('growth')) and _unfinished(result, f, k, name)]
    if not todo: print(f"{out.name} holds all of this already; --fresh measures again")
    for f,k,name,case in progress_bar(todo, leave=False) if sys.stdout.isatty() else todo:
        start = time.perf_counter()
        o = dict(case(), date=datetime.now(timezone.utc).strftime('%Y-%m-%d'), seconds_taken=round(time.perf_counter()-start, 1))
        result['results'].setdefault(f'{f}/{k}', {})[name] = o
        _write(out, result)
        _show_case(f'{f}/{k}', name, o)
    return result

def _unfinished(result, f, k, name):
    return name not in result['results'].get(f'{f}/{k}', {})

def plot_goals(
    result:dict, # What `tools/bench.py` writes
    ax=None
)->plt.Axes:
    "Measured over target for every goal that was measured; left of 1 is met"
    o = goals(result)
    o = o[o.measured.notna() & ~o.goal.str.startswith('cached =')].iloc[::-1]
    over = pd.DataFrame({k:(o[k]/o.target).where(o.sense=='≤', o.target/o[k]) for k in ('measured','low','high')})
    ax = ax or plt.subplots(figsize=(6, 0.6+0.22*len(o)), dpi=80)[1]
    ax.hlines(range(len(o)), over[['low','high']].min(axis=1), over[['low','high']].max(axis=1), color='0.6')
    ax.scatter(over.measured, range(len(o)), c=['C3' if m=='no' else 'C0' for m in o.met], zorder=3)
    ax.set_yticks(range(len(o)), o.width+' '+o.goal, fontsize=7)
    ax.axvline(1, color='k', lw=1)
    ax.set(xscale='log', xlabel='measured over target')
    return ax

def plot_growth(
    cases:dict, # Of one width, as `tools/bench.py` writes
)->plt.Figure|None: # None if growth was not measured
    "Milliseconds an image against batch, width and side"
    names = [(k, a) for k in ('train','sampling') for a in _axes if 'rows' in cases.get(f'growth-{k}-{a}', {})]
    if not names: return None
    fig,axs = plt.subplots(1, len(names), figsize=(2.4*len(names), 2.2), dpi=80, squeeze=False, layout='constrained')
    for ax,(k,a) in zip(axs[0], names, strict=True):
        rows = cases[f'growth-{k}-{a}']['rows']
        for who in ('ours','peer'):
            if f'{who} ms_per_image' in rows[0]: ax.loglog([r[a] for r in rows], [r[f'{who} ms_per_image']['median'] for r in rows], 'o-', ms=3, label=who)
        ax.set(title=k, xlabel=dict(bs='batch', filters='filters', side='side')[a])
        ax.set_xticks([r[a] for r in rows], [r[a] for r in rows])
        ax.xaxis.set_tick_params(which='minor', bottom=False, labelbottom=False)
        ax.tick_params(labelsize=7, which='both')
        ax.legend(fontsize=7)
    axs[0,0].set_ylabel('ms an image')
    return fig

@call_parse
def main(
    peer:str=None, # Checkout of pclucas14/pixel-cnn-pp; without it ours alone
    only:str=None, # Groups (train, eval, score, likelihood, memory, profile, sampling, growth, gpu) or cases, with commas between; default all
    width:str='40/2,160/5', # filters/blocks, with commas between; growth is measured at the first
    bs:int=8, # Batch size
    side:int=32, # Side of the images
    rounds:int=5, # How often each thing is timed
    threads:int=1, # Of the CPU
    dropout:float=0.5, # Of both networks in training
    eager:store_true=False, # Leave torch.compile out
    seed:int=0, # Of images and weights
    device:str='cpu', # 'cpu' or 'cuda'
    out:Path=Path('bench.json'), # File to write, or to resume
    fresh:store_true=False, # Start the file over
)->dict: # Content of the file
    "Measure time, memory and sampling, side by side with a peer"
    widths,only = [tuple(map(int, o.split('/'))) for o in width.split(',')],only and only.split(',')
    b = Setup(bs=bs, side=side, rounds=rounds, device=device, seed=seed, dropout=dropout, eager=eager, peer=load_peer(peer) if peer else None)
    _pick(_cases(b, peer), only)
    result = _start_file(out, _header(b, threads), fresh)
    result['commands'].append(_command())
    torch.set_num_threads(threads)
    return _run_cases(b, widths, peer, only, result, out)

