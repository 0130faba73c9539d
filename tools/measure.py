#!/usr/bin/env python3
"""Likelihood, robustness, out-of-distribution detection and samples of runs of NCPN, flows and ScoreFlow, one small JSON file each.

    python tools/measure.py runs/experiments/scoreflow-importance-0,runs/experiments/digits-vp-0 --out nbs/results/scoreflow

Each folder is a job of `tools/jobs.py` whose run is done. A result that has the weights' digest is not made again. Bounds are means of `--seeds` seeds, those of
ScoreFlow with `--n_times` times each; the spread of the seeds is the Monte Carlo error. The ODE of a
ScoreFlow sees the first `--n_ode` images, and so does the bound beside it. Draws are refined from T where the noise of the training went so far, and `clean` are those at t = 0."""
import hashlib
import json
import re
import time
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from ncml.commands.shell import command_line, open_run
from ncml.data.loaders import get_dls
from ncml.instruments.adapters import over_seeds
from ncml.instruments.quality import compare_sets, fingerprint, get_features, kernel_distance, knn_precision, knn_recall, load_features, sample_quality, save_features, train_features
from ncml.learner import image_digest, load_run, made_with
from ncml.loss import bits_per_dim
from ncml.ood import constant_images, ood_statistics, ood_table, uniform_images
from ncml.sampling import get_sampler, sample_ncml
from ncml.sanity import delta_log_prob, lsb_flip, plus_minus_one, sanity_table, sanity_values
from ncml.sde import to_unit

def seconds(f):
    start = time.process_time()
    return f(),time.process_time()-start

def summary(lp, x): # (seeds,n), nats
    "Mean bits per dimension, standard error over images, and error of the mean by the noise of the seeds"
    b = torch.stack([bits_per_dim(o.double(), x) for o in lp])
    noise = (b.var(0).mean().item()/b.numel())**.5 if len(b)>1 else 0. # independent for each image
    return dict(bpd=b.mean().item(), stderr=b.mean(0).std().item()/b.shape[1]**.5, noise=noise, n=b.shape[1])

def likelihoods(model, x, n_times, n_ode, seeds, keep):
    "Bits by the bound and by the ODE, or the exact ones"
    with torch.no_grad():
        if not hasattr(model, 'n_times'):
            n = 1 if model.kind=='exact' else seeds
            lp,s = seconds(lambda: torch.cat([over_seeds(model, o, seeds=range(n)) for o in x.split(200)], 1))
            return {model.kind:summary(lp, x) | dict(seconds=s/n)}
        model.n_times = n_times
        lp,s = seconds(lambda: over_seeds(model, x, seeds=range(seeds)))
        out = dict(bound=summary(lp, x) | dict(seconds=s/seeds, n_times=n_times), bound_first=summary(lp[:,:n_ode], x))
        if keep: out['bound']['values'] = [round(o, 4) for o in bits_per_dim(lp.double().mean(0), x).tolist()]
        model.likelihood,model.steps = 'ode',dict(rtol=1e-4, atol=1e-4)
        lp,s = seconds(lambda: over_seeds(model, x[:n_ode], seeds=range(2)))
        out['ode'] = summary(lp, x) | dict(seconds=s/2, n_probes=model.n_probes, rtol=1e-4)
        few,model.steps = x[:8],dict(rtol=1e-6, atol=1e-6)
        out['ode']['solver'] = (bits_per_dim(model.log_prob(few)-lp[0,:8], x)).abs().mean().item() # error of the tolerance
        model.likelihood,model.steps = 'bound',{}
    return out

measures = dict(kid=kernel_distance, precision=knn_precision, recall=knn_recall)

class Quality:
    "Distances in the features of `net` from disjoint sets of `train`, beside those of `u`, which no model has seen"
    def __init__(self, net, train, u):
        self.net,self.n,self.ref = net,len(u),get_features(net, train)
        floor = compare_sets(get_features(net, u), self.ref, self.n)
        self.same = dict(floor=floor['distance'], floor_stderr=floor['stderr'], fingerprint=fingerprint(net), n=self.n, ref_sets=floor['ref_sets'])
    def __call__(self, draws):
        f = get_features(self.net, draws)
        d = compare_sets(f, self.ref, self.n)
        return dict(distance=d['distance'], stderr=d['stderr']) | {k:compare_sets(f, self.ref, self.n, fn, 0)['distance'] for k,fn in measures.items()}

def samples(run, judges, u, o, t=None):
    "What each of `judges` says, means over `seeds` sets of draws"
    sampler,t = get_sampler(run.model),run.config['noise']['t_max'] if t is None else t
    if hasattr(run.model, 'n_times'): t,sampler = 0.,lambda *a, **k: run.model.sampler(*a, n_steps=o['n_steps'], **k)
    elif run.config['noise']['p_clean']==1: t = 0. # plain maximum likelihood
    found,times = {k:[] for k in judges},[]
    for seed in range(o['seed'], o['seed']+o['seeds']):
        draws,s = seconds(lambda: sample_ncml(run.model, run.sde, (len(u),*u.shape[1:]), t, None, 10, sampler=sampler, seed=seed, bs=100)) # noqa: B023
        times.append(s)
        for k,judge in judges.items(): found[k].append(judge(draws))
    def mean(k): return {i:sum(f[i] for f in found[k])/len(found[k]) for i in found[k][0]} | judges[k].same | dict(distances=[f['distance'] for f in found[k]])
    own = mean('own') if 'own' in judges else {}
    return own | dict(seconds=sum(times)/len(times), t=t) | {k:mean(k) for k in judges if k!='own'}

def robustness(model, u, n_bits, n_times, keep):
    "The sanity test, and with `keep` the bits of each image"
    if hasattr(model, 'n_times'): model.n_times = n_times
    values = sanity_values(model, u, n_bits, perturb=[lsb_flip, plus_minus_one])
    kept = {f'{k}-{pi:g}':values[k, pi].round(3).tolist() for k,pi in values.columns if pi or k=='lsb_flip'}
    return dict(sanity=sanity_table(values).to_dict('records')) | (dict(bits=kept) if keep else {})

def curve(run, u, n_bits):
    "Figure 4: what changed levels cost at each noise level, of 200 images"
    c = run.config['noise']
    ts = [run.sde.t_at_levels(c['levels']*o, n_bits) if o else 0. for o in (0, .025, .05, .1, .15, .2, .3, .5, 1)]
    table = delta_log_prob(run.model, u[:200], n_bits, ts)
    return [{k:r[k] for k in ('t','pi','bpd_data','bpd_pi','delta','stderr')} | dict(levels=run.sde.levels_at(r['t'], n_bits)) for r in table.to_dict('records')]

def detection(model, u, n_bits, n_times, other):
    "AUROC of constant and uniform images, and of those in the file `other`, by two statistics"
    if hasattr(model, 'n_times'): model.n_times = n_times
    own = ood_statistics(model, u, n_bits)
    others = {k:ood_statistics(model, f(len(u), u.shape[1:], n_bits), n_bits) for k,f in dict(constant=constant_images, uniform=uniform_images).items()}
    if other:
        with np.load(other) as f: v = torch.from_numpy(f['x'][:len(u)]).permute(0, 3, 1, 2).contiguous()
        others[Path(other).stem] = ood_statistics(model, v, n_bits)
    table = ood_table(own, others)
    return table[table.statistic.isin(['log_p','log_grad_p'])][['set','statistic','auroc','low','high']].to_dict('records')

def features(folder, run, dls):
    "The features of this split of the data, trained once"
    file = folder/f"features-{run.config['data']['digest']}.safetensors"
    if not file.is_file(): save_features(file, train_features(dls, seed=0))
    return load_features(file)

def refined(folder, start, o):
    "The same draws of an NCPN run, refined by its own score and by that of a ScoreFlow"
    flow,own = load_run(folder/'run'),load_run(start/'run')
    c,(u,_) = own.config,own.images('test')
    u,t = u[:o['n']],c['noise']['t_max']
    dls = get_dls(c['data']['source'], seed=c['data']['seed'], root=c['data']['root'], device='cpu')
    net,rows = features(folder.parent, own, dls),{}
    for name,model,steps in (('denoised',own.model,0), ('own',own.model,10), ('scoreflow',flow.model,10)):
        for seed in range(o['seeds']):
            draws = sample_ncml(model, own.sde, (len(u),*u.shape[1:]), t, None, steps, sampler=get_sampler(own.model), seed=seed, bs=100)
            q = sample_quality(net, draws, dls.train_ds.u, u, len(u), 20, 0)
            rows[f'{name}-{seed}'] = {k:q[k] for k in ('distance','stderr','floor','precision','recall','fingerprint')}
    return dict(name=f'{folder.name}-{start.name}', t=t, weights=[r.config['weights_sha256'][:16] for r in (flow,own)], options=o, refined=rows) | made_with()

def opened(folder):
    "The run of a job; a network that is not ours by the factory that its configuration names"
    factory = json.loads((folder/'run/config.json').read_text()).get('factory')
    return open_run(f'{folder}/run' + (f'@{factory}' if factory and not factory.startswith('ncml.') else ''))

def measure(folder, o, other, vgg):
    run = opened(folder)
    c,(u,_) = run.config,run.images('test')
    u,n_bits = u[:o['n']],c['data']['n_bits']
    x = to_unit(u, n_bits)
    out = dict(name=folder.name, command=c['training']['command'], data={k:c['data'][k] for k in ('seed','n_bits','shape','n_train')} | dict(source=Path(c['data']['source']).name),
        images=image_digest(u, n_bits), weights=c['weights_sha256'][:16], parameters=sum(p.numel() for p in run.model.parameters()),
        training={k:c['training'][k] for k in ('seed','epochs','steps','seconds','versions','device','threads')}, noise=c['noise'], options=o)
    out['likelihood'] = likelihoods(run.model, x, o['n_times'], o['n_ode'], o['seeds'], o['keep'])
    print(folder.name, {k:{i:round(j, 4) for i,j in v.items() if i!='values'} for k,v in out['likelihood'].items()}, flush=True)
    if o['draws']:
        dls = get_dls(c['data']['source'], seed=c['data']['seed'], root=c['data']['root'], device='cpu')
        train,judges = dls.train_ds.u,{}
        if getattr(dls.train_ds, 'y', None) is not None: judges['own'] = Quality(features(folder.parent, run, dls), train, u)
        if vgg: judges['vgg'] = Quality(vgg, train[:5000], u)
        if judges: out['samples'] = samples(run, judges, u, o)
        if judges and out['samples']['t']: out['clean'] = samples(run, judges, u, o, 0.)
    if o['all']: out |= robustness(run.model, u, n_bits, o['n_few'], o['keep']) | dict(ood=detection(run.model, u, n_bits, o['n_few'], other))
    if o['curves'] and c['noise']['p_clean']<1: out['curve'] = curve(run, u, n_bits)
    return out | made_with()

def write(file, result):
    "JSON, with numbers of a list on one line"
    text = re.sub(r'\[[-\d.e,\s]+\]', lambda o: re.sub(r'\s+', ' ', o[0]).replace('[ ', '[').replace(' ]', ']'), json.dumps(result, indent=1))
    file.write_text(text+'\n')

@call_parse
def main(
    folders:str, # folders of finished jobs, with commas between
    out:str='nbs/results', # folder of the results
    n:int=297, # most test images
    n_times:int=64, # of a bound
    n_few:int=32, # of a bound in the sanity test and the detection
    seeds:int=2, # of the noise of a bound, and of draws
    n_ode:int=64, # images for the ODE
    n_steps:int=50, # of Heun's method from the prior
    draws:int=1, # Fréchet distance? 0 for none
    all:int=1, # sanity test and out-of-distribution detection? 0 for none
    other:str='', # .npz file of images x (n,s,s,c), for the detection
    keep:int=0, # bits of all images? 0 for none
    curves:int=0, # the price of a changed level at all noise levels? 0 for none
    vgg:str='', # weights of `tools/vgg.py`, for a second network of features (needs h5py, and `n` of 257 or more)
    seed:int=0, # the first of the draws
    start:str='' # folder of a finished NCPN job: measure its draws, refined by both scores, instead
):
    "Measure runs; what is there is not measured again"
    options = dict(locals())
    folders,target,start,other = [Path(o) for o in options.pop('folders').split(',')],Path(options.pop('out')),options.pop('start'),options['other']
    for folder in folders:
        if not (folder/'record.json').is_file(): raise ValueError(f"folders: need folders of jobs of tools/jobs.py, got {folder}")
    for k in ('other','vgg'):
        if options[k] and not Path(options[k]).is_file(): raise ValueError(f"{k}: need a file, got {options[k]}")
    if options['vgg'] and options['draws'] and n<257: raise ValueError(f"n: need 257 images or more for the features of vgg, got {n}")
    vgg = None
    if options['vgg']:
        from vgg import VGGFeatures # needs h5py
        vgg = VGGFeatures(options['vgg'])
    for k in ('other','vgg'): options[k] = Path(options[k]).name
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        record,file = folder/'record.json',target/f'{folder.name}.json'
        if (status := json.loads(record.read_text())['status'])!='done':
            print(f'{folder}: left out, {status}', flush=True)
            continue
        words = options | dict(folders=folder.name, out=target if not target.is_absolute() else target.name, start=Path(start).name)
        command = command_line(main, words).replace('main', 'python tools/measure.py', 1)
        if start:
            result = refined(folder, Path(start), options) | dict(measured_by=command)
            write(target/f"{result['name']}.json", result)
            continue
        digest = hashlib.sha256((folder/'run/weights.safetensors').read_bytes()).hexdigest()
        old = json.loads(file.read_text()) if file.is_file() else {}
        if digest.startswith(old.get('weights', '-')) and old['options']==options:
            print(f'{file} is there', flush=True)
            continue
        result = measure(folder, options, other, vgg) | dict(measured_by=command)
        write(file, result)
