"""Verdicts on the papers' claims from the files that `measure.py`, `drift.py`, `upper.py`, `completion.py`, `trade.py` and `classes.py` of `tools/` wrote; `nbs/studies/claims.ipynb` is the page.

A difference is taken between two models of the same seed: of bits image by image, with Student's 95% interval over images (over faces, of which there are eight crops each); of
distances with two standard errors, of areas by bootstrap (differences as if of different images), of drift with 1.96; some judges have a limit or rule of their own, which
their row states. A claim about it is *reproduced* if the interval lies on the claimed side for every seed of every set of images (for draws also
under both networks of features), *contradicted* if it lies on the other side for all of them, and *not reproduced* otherwise. *Incomplete* is what lacks a run."""
import json
import re
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from scipy import stats
from ncml.data.loaders import get_dls
from ncml.instruments.quality import accuracy, train_features
from ncml.learner import load_pretrained
from ncml.ncpn import ncpn
from ncml.sampling import sample_ncml
from ncml.sanity import mean_interval
from ncml.sde import get_sde

sets = {'crops 8×8':'small', 'faces 8×8':'faces', 'crops 16×16':'table', 'digits':'digits'}
drawn = 'crops 8×8','crops 16×16','digits' # sets with distances
noises = 've','subvp','vp'
flip,moved = {0.:'lsb_flip-0', .5:'lsb_flip-0.5', 1.:'lsb_flip-1'},{0.:'lsb_flip-0', .5:'plus_minus_one-0.5', 1.:'plus_minus_one-1'}
words = {1:'reproduced', -1:'contradicted', 0:'not reproduced'}

def load(folder):
    "Results by name"
    return {f.stem:json.loads(f.read_text(encoding='utf-8')) for f in sorted(Path(folder).glob('*.json'))}

def everything(root='../results'):
    "All results, by folder and name"
    return {k:load(Path(root)/k) for k in ('claims','drift','scoreflow','flows','trade','complete','gpu','steps','upper','classes')}

# %% Figures of a run
def bits(o, pi=0., keys=flip):
    "Bits of each test image; of faces, means over the crops of a face"
    b = np.array(o['bits'][keys[pi]])
    return np.array([v.mean() for v in np.split(b, range(8, len(b), 8))]) if o['data']['source']=='faces8.npz' else b
def rise(o, pi, keys=flip): return bits(o, pi, keys)-bits(o)
def auroc(o, kind): return next(r for r in o['ood'] if r['set'].startswith(kind) and r['statistic']=='log_grad_p')
def draws(o, part='samples', net='own'):
    "Measures of draws in two parts or 'clean' (t = 0, all that plain maximum likelihood has)"
    d = o.get(part) or o['samples']
    return d if net=='own' else d['vgg']
def floors(o, part, net): return draws(o, part, net)['distance']/draws(o, part, net)['floor']
def distance(o, part, net):
    "Mean distance of the sets of draws and its standard error, by the jackknife or from the sets, whichever is larger, in floors"
    d = draws(o, part, net)
    v = d['distances']
    return d['distance']/d['floor'],max(d['stderr'], np.std(v, ddof=1) if len(v)>1 else 0.)/len(v)**.5/d['floor']
def farther(a, b, part, other, net):
    "Distance of the draws `part` of `a` less that of `other` of `b`, in floors; half of its interval, which is at least that of the floor: real images differ by as much"
    (p,s),(q,r),d = distance(a, part, net),distance(b, other, net),draws(a, part, net)
    return p-q,2*max((s*s+r*r)**.5, d['floor_stderr']/d['floor'])
def prices(o, pi=1.): return [r for r in o['curve'] if r['pi']==pi]
def price(o, pi=1.): # of a result without bits of each image: mean and standard error
    return next((r['diff'],r['diff_stderr']) for r in o['sanity'] if r['perturbation']=='lsb_flip' and r['pi']==pi)

# %% Rows of comparisons: set, seed, mean, low, high
def seeds(R, kind, noise): return {i:R[k] for i in range(9) if (k := f'{kind}-{noise}-{i}') in R}
def pairs(R, a, b, kinds):
    "Runs of two noises with the same seed, on the same images"
    for name in kinds:
        for i in range(9):
            p,q = (f'{sets[name]}-{n}-{i}' for n in (a, b))
            if not (p in R and q in R): continue
            x,y = R[p],R[q]
            if x['images']!=y['images']: raise ValueError(f"{name} {i}: need the same images")
            yield name,i,x,y
def row(name, seed, v):
    mean,_,low,high = mean_interval(v)
    return dict(set=name, seed=seed, mean=mean, low=low, high=high)
def around(name, seed, mean, half): return dict(set=name, seed=seed, mean=mean, low=mean-half, high=mean+half)
def frame(rows): return pd.DataFrame(list(rows), columns=['set','seed','mean','low','high'])
def several(*frames): return pd.concat(frames, ignore_index=True)
def renamed(rows, f): return rows.assign(set=[f(o) for o in rows.set])

def against(R, a, f, b='ml', kinds=sets): return frame(row(n, i, f(x)-f(y)) for n,i,x,y in pairs(R, a, b, kinds))
def at_both(f): return several(*[renamed(f(pi), lambda o, pi=pi: f'{o}, π={pi:g}') for pi in (.5, 1.)])
def gain(R, noise, b='ml', keys=flip, kinds=sets): return at_both(lambda pi: against(R, noise, lambda o: bits(o, pi, keys), b, kinds))
def loss(R, noise, b='ml', keys=flip, kinds=sets): return at_both(lambda pi: against(R, noise, lambda o: rise(o, pi, keys), b, kinds))
def nearer(R, a, part='samples', b='ml', other='samples'):
    "Distance of draws of `a` less that of draws of `b`, in floors, by both networks"
    return frame(around(f'{name}, {net}', i, *farther(x, y, part, other, net)) for name,i,x,y in pairs(R, a, b, drawn) for net in ('own','vgg'))
def areas(R, a, kind, b=None):
    "AUROC of `a` less ½, or less that of `b`"
    def half(o): return (o['high']-o['low'])/2
    def one(name, i, x, y):
        p,q = auroc(x, kind),auroc(y, kind)
        if b: return around(name, i, p['auroc']-q['auroc'], (half(p)**2+half(q)**2)**.5)
        return dict(set=name, seed=i, mean=p['auroc']-.5, low=p['low']-.5, high=p['high']-.5)
    return frame(one(*o) for o in pairs(R, a, b or a, ('crops 8×8','faces 8×8','crops 16×16')))
def on_gpu(A, *pis):
    "VP less ML of the pair at 32×32: bits image by image"
    rows = [r for r in A['gpu']['draw']['draw']['sanity'] if r['model']=='vp' and r['perturbation']=='lsb_flip' and r['pi'] in pis]
    return frame(dict(set='32×32' + f", π={r['pi']:g}"*(pis!=(0.,)), seed=0, mean=r['vs'], low=r['vs_low'], high=r['vs_high']) for r in rows)
def price_on_gpu(A):
    "Price of a change of VP less that of ML at 32×32, as if of different images"
    o = {(r['model'],r['pi']):r for r in A['gpu']['draw']['draw']['sanity'] if r['perturbation']=='lsb_flip'}
    def one(pi): a,b = o['vp',pi],o['ml',pi]; return around(f'32×32, π={pi:g}', 0, a['diff']-b['diff'], 2*(a['diff_stderr']**2+b['diff_stderr']**2)**.5)
    return frame(map(one, (.5, 1.)))

# %% From rows to a verdict
def sides(rows, sign, least=0.):
    "For each set 1 if the intervals of all seeds lie beyond `least` on the side of `sign`, -1 if all lie on its other side, else 0"
    def side(o):
        low,high = (o.low,o.high) if sign>0 else (-o.high,-o.low)
        return int((low>least).all())-int((high<least).all())
    return {k:side(o) for k,o in rows.groupby('set', sort=False)}
def verdict(rows, sign, least=0.):
    found = set(sides(rows, sign, least).values())
    return words[found.pop()] if len(found)==1 else words[0]
def effect(rows, digits=2):
    "Mean over seeds, ends of all intervals, number of seeds"
    def text(k, o): return f"{k} {o['mean'].mean():+.{digits}f} ({o.low.min():+.{digits}f} to {o.high.max():+.{digits}f}; {o.seed.nunique()})"
    return '; '.join(text(k, o) for k,o in rows.groupby('set', sort=False))
def in_short(rows, sign, least=0.):
    "Which sets of images say what, where there are more than one; π and networks that agree together"
    said,by = sides(rows, sign, least),{}
    for k,v in said.items(): by.setdefault(re.sub(', (π=[^,]*|own|vgg)$', '', k), {})[k] = v
    found = {1:[], 0:[], -1:[]}
    for k,o in by.items():
        for n,v in {k:next(iter(o.values()))}.items() if len(set(o.values()))==1 else o.items(): found[v].append(n)
    total,names = sum(map(len, found.values())),{1:'as claimed', 0:'undecided', -1:'the opposite'}
    def text(v, o): return names[v] + (f" on {' / '.join(o)}" if len(o)<5 else f' in {len(o)} of {total} comparisons')
    return '; '.join(text(v, o) for v,o in found.items() if o) + ' | ' if len(said)>1 else ''
def judged(rows, sign, digits=2, least=0.):
    "Verdict, and what was found: in short, then after a bar all figures"
    if not len(rows): raise KeyError('no runs')
    return verdict(rows, sign, least),in_short(rows, sign, least)+effect(rows, digits)
def sure(low, high): return words[int(low>0)-int(high<0)] # of a difference that is claimed to be positive

# %% Judges: functions of all results, each gives a verdict and what was found. Robustness and bits
def robust(noise): return lambda A: judged(several(loss(A['claims'], noise), *([price_on_gpu(A)] if noise=='vp' else [])), -1)
def any_change(A): return judged(several(*[renamed(loss(A['claims'], n, keys=moved), lambda o, n=n: f'{n}, {o}') for n in noises]), -1)
def better(noise, kinds=sets): return lambda A: judged(several(gain(A['claims'], noise, kinds=kinds), *([on_gpu(A, .5, 1.)] if noise=='vp' and kinds is sets else [])), -1)
def cleaner(noise, sign=-1, kinds=sets): return lambda A: judged(several(against(A['claims'], noise, bits, kinds=kinds), *([on_gpu(A, 0.)] if noise=='vp' and kinds is sets else [])), sign)
def bits_at_half(A): return judged(several(*[renamed(against(A['claims'], n, lambda o: bits(o, .5)), lambda o, n=n: f'{n}, {o}') for n in noises]), -1)
def dearer(noise):
    def own(A, pi): return frame(row(n, i, rise(o, pi)) for n in sets for i,o in seeds(A['claims'], sets[n], noise).items())
    return lambda A: judged(at_both(lambda pi: own(A, pi)), 1, least=.1)

def everyone(A):
    "Intervals of every model that was measured"
    runs = {k:o for k,o in A['claims'].items() if 'bits' in o}
    rows = frame(row(k, 0, rise(o, pi, keys)) for k,o in runs.items() for pi in (.5, 1.) for keys in (flip, moved))
    other = [price(o) for f in ('scoreflow','flows') for o in A[f].values() if 'sanity' in o]
    up = (rows.low>0).sum()+sum(m>2*s for m,s in other)
    n = len(rows)+len(other)
    return words[1 if up==n else 0 if up else -1],f"{up} of {n} changes cost bits ({len(runs)} models here, {len(other)} of the other studies); π=½, flips: {rows['mean'][::4].min():.2f} to {rows['mean'][::4].max():.2f} bits"

def vp_clean(A): return judged(several(*[renamed(against(A['claims'], 'vp', bits, b), lambda o, b=b: f'vp − {b}, {o}') for b in ('ml','ve','subvp')]), 1)
def vp_changed(A): return judged(several(*[renamed(gain(A['claims'], 'vp', b), lambda o, b=b: f'vp − {b}, {o}') for b in ('ml','ve','subvp')]), -1)
def schedule(A): return judged(several(*[renamed(gain(A['claims'], b, a), lambda o, a=a, b=b: f'{b} − {a}, {o}') for a,b in (('ve','subvp'), ('subvp','vp'))]), -1)

def beside(A, f, pi=0.): return frame(row(f'{n} − {r}', 0, f(A['claims'][f'small-{n}-0'], pi)-f(A['claims'][f'small-{r}-ml'], pi)) for n in noises for r in ('flow','vae'))
def clean_order(A): return judged(several(*[renamed(against(A['claims'], b, bits, a), lambda o, a=a, b=b: f'{b} − {a}, {o}') for a,b in (('ve','subvp'), ('subvp','vp'))]), 1)
def draws_order(A): return judged(several(*[renamed(nearer(A['claims'], b, b=a), lambda o, a=a, b=b: f'{b} − {a}, {o}') for a,b in (('ve','subvp'), ('subvp','vp'))]), -1, 1)

def rivals(f, sign=-1):
    "NCPN with noise against a flow and an autoencoder of 8×8 crops, image by image"
    return lambda A: judged(at_both(lambda pi: beside(A, f, pi)), sign)
def competitive(A):
    "Against one model of each other family"
    R = A['claims']
    others = {'PixelCNN++':'pixelcnn-0', 'flow':'small-flow-ml', 'autoencoder':'small-vae-ml', 'ScoreFlow':'crops-uniform-0'}
    rows = frame(row(f'{n} − {name}', 0, bits(R[f'small-{n}-0'])-bits(R[k])) for n in noises for name,k in others.items())
    loses = [(o.low>.05).any() for _,o in rows.groupby(rows.set.str.split(' ').str[0])]
    return words[int((rows.high<.05).all())-int(all(loses))],f'clean bits of 8×8 crops: {effect(rows)}; claimed: none .05 worse than any (our limit); contradicted: all three surely are'
def most_models(A):
    "One model without noise of each family"
    R = A['claims']
    rows = frame(row(name, 0, rise(R[k], .5)) for name,k in {'NCPN':'small-ml-0', 'PixelCNN++':'pixelcnn-0', 'flow':'small-flow-ml', 'autoencoder':'small-vae-ml', 'ScoreFlow':'crops-uniform-0'}.items())
    more,fewer = (rows.low>.1).sum(),(rows.high<.1).sum()
    return words[int(more>len(rows)/2)-int(fewer>len(rows)/2)],f'8×8 crops, π=½: {effect(rows)}; claimed: more than a tenth of a bit for most of the {len(rows)}'

def against_scoreflow(noise):
    "Price, NCPN less ScoreFlow, whose bits are bounds, seed by seed: of digits as if of different images, of 8×8 crops image by image"
    def digits(A, i, pi):
        d = rise(A['claims'][f'digits-{noise}-{i}'], pi)
        m,s = price(A['scoreflow'][f'scoreflow-importance-{i}'], pi)
        return around('digits', i, d.mean()-m, 2*(d.var(ddof=1)/len(d)+s*s)**.5)
    def crops(R, i, pi):
        a,b = R[f'small-{noise}-{i}'],R[f'crops-uniform-{i}']
        if a['images']!=b['images']: raise ValueError(f"crops {i}: need the same images")
        return row('crops 8×8', i, rise(a, pi)-rise(b, pi))
    return lambda A: at_both(lambda pi: frame([digits(A, i, pi) for i in range(3)] + [crops(A['claims'], i, pi) for i in seeds(A['claims'], 'crops', 'uniform')]))
def most_robust(A):
    others = rivals(rise)(A)
    score = against_scoreflow('vp')(A)
    v = {others[0],verdict(score, -1)}
    return v.pop() if len(v)==1 else words[0],f'ScoreFlow: {effect(score)}; others: {others[1]}'
def diffusion(A): return judged(against_scoreflow('ml')(A), 1)

def spread(A):
    "Models without noise: Pitman and Morgan's test of equal variances, of all and with each left out"
    R = A['claims']
    runs = [R[k] for k in ('small-ml-0','width-8-ml','width-16-ml','width-64-ml','small-flow-ml','small-vae-ml')]
    a,b = (np.array([bits(o, pi).mean() for o in runs]) for pi in (0., .5))
    def less(keep):
        r = np.corrcoef(a[keep]+b[keep], a[keep]-b[keep])[0,1]
        half = stats.norm.ppf(.975)/(len(keep)-3)**.5
        return sure(np.arctanh(r)-half, np.arctanh(r)+half)
    n = range(len(a))
    found = {less(list(n))} | {less([j for j in n if j!=i]) for i in n}
    but = [a[:-1].std(ddof=1),b[:-1].std(ddof=1)]
    return found.pop() if len(found)==1 else words[0],f'standard deviation over {len(a)} models of 8×8 crops without noise: {a.std(ddof=1):.2f} bits clean, {b.std(ddof=1):.2f} at π=½; without the autoencoder {but[0]:.2f} and {but[1]:.2f}. Claimed: less at π=½ (test of Pitman and Morgan), whichever model is left out'

def capacity(A):
    "Does the effect of noise shrink as the network widens? The price, VP less ML, of 64 filters less that of 8"
    R = A['claims']
    def less(w): a,b = (R[f'width-{w}-{n}' if w!=32 else f'small-{n}-0'] for n in ('vp','ml')); return rise(a, 1.)-rise(b, 1.)
    found = {w:less(w) for w in (8, 16, 32, 64) if w==32 or f'width-{w}-vp' in R}
    _,_,low,high = mean_interval(found[64]-found[8])
    return sure(low, high),'price at π=1, VP − ML: ' + ', '.join(f'{v.mean():+.3f} ({k} filters)' for k,v in found.items()) + f'; 64 less 8: {low:+.3f} to {high:+.3f}. One seed, equal steps: a wide network is trained less'

# %% Figure 4
def curves(A): return {k:o for k,o in A['claims'].items() if 'curve' in o and k.startswith(('small','table','digits'))}
def by_kind(found): # means over seeds
    return pd.Series(found).groupby(lambda k: k.rsplit('-', 1)[0], sort=False).mean()
def falls(A):
    "No step of the curve rises beyond two standard errors, and its end is below half of its start"
    found = {k:prices(o) for k,o in curves(A).items()}
    def down(o): return all(b['delta']<a['delta']+2*(a['stderr']**2+b['stderr']**2)**.5 for a,b in zip(o, o[1:], strict=False)) and o[-1]['delta']<o[0]['delta']/2
    good = [down(o) for o in found.values()]
    bad = sorted({k.rsplit('-', 1)[0] for k,o in found.items() if not down(o)})
    ends = [by_kind({k:o[i]['delta'] for k,o in found.items()}) for i in (0,-1)]
    return words[1 if all(good) else 0 if any(good) else -1],'from t = 0 to T: ' + ', '.join(f'{a:.2f} → {b:.3f} ({k})' for (k,a),b in zip(ends[0].items(), ends[1], strict=True)) + f"; not so: {', '.join(bad) or 'none'}; claimed: no step rises by two standard errors, and the end is below half of the start"
def half_at(o):
    "Mean absolute perturbation, in levels, where half of the price at t = 0 is left"
    x,y = (np.array([r[k] for r in prices(o)]) for k in ('levels','delta'))
    i = int(np.argmax(y<y[0]/2))
    if not i: raise ValueError(f"{o['name']}: need a price that falls below half")
    return float(np.interp(y[0]/2, y[[i,i-1]], x[[i,i-1]]))*(2/np.pi)**.5
def at_a_level(A):
    found = {k:half_at(o) for k,o in curves(A).items()}
    good = [.5<v<2 for v in found.values()]
    return words[1 if all(good) else 0 if any(good) else -1],'half of the price is left at ' + ', '.join(f'{v:.2f} ({k})' for k,v in by_kind(found).items()) + ' levels of mean perturbation; claimed: within a factor 2 of one'
def follows(A):
    "Is the price a function of the noise in levels alone? Largest ratio of two SDEs at ½, 1 and 2 levels, of each seed"
    def at(o, level): return float(np.interp(level, *zip(*[(r['levels'], r['delta']) for r in prices(o)], strict=True)))
    c = curves(A)
    ratio = {i:max(max(v)/min(v) for v in [[at(c[f'small-{n}-{i}'], level) for n in noises] for level in (.5, 1., 2.)]) for i in range(3) if all(f'small-{n}-{i}' in c for n in noises)}
    return words[1 if max(ratio.values())<1.5 else -1 if min(ratio.values())>2 else 0],'8×8 crops, at ½, 1 and 2 levels: dearest SDE over cheapest at most ' + ', '.join(f'{v:.2f}' for v in ratio.values()) + ' (seeds); claimed: below 1.5; contradicted: above 2'

# %% Draws
def closer(noise, part='samples'): return lambda A: judged(nearer(A['claims'], noise, part), -1, 1)
def steadier(noise): return lambda A: judged(nearer(A['claims'], noise, 'samples', noise, 'clean'), -1, 1)
def vp_nearest(A): return judged(several(*[renamed(nearer(A['claims'], 'vp', b=b), lambda o, b=b: f'vp − {b}, {o}') for b in ('ml','ve','subvp')]), -1, 1)

def refined(A):
    "Refined draws of digits less the same model's draws at t = 0, seed by seed, at every start"
    rows = [o for o in A['trade']['digits']['rows'] if o['model']=='digits-ncml-vp']
    def by_seed(**k): return pd.Series({o['seed']:o['distance'] for o in rows if all(o[i]==v for i,v in k.items())})
    clean,found = by_seed(levels=0., solver='none'),{}
    for level in sorted({o['levels'] for o in rows}-{0.}):
        v = by_seed(levels=level, solver='heun', n_steps=2)
        d = ((v if len(v) else by_seed(levels=level, solver='tweedie'))-clean).dropna()
        found[level] = row(f'from {level:g} levels', 0, d)
    rows = frame(found.values())
    v = judged(rows, -1)[0]
    return words[0] if v==words[1] else v,'digits, one model, ten seeds of draws, our own features alone, which cannot reproduce a gain: ' + effect(rows).replace('; 1)', ')')

def few_steps(A):
    rows = [o for o in A['trade']['digits']['rows'] if o['levels']==1.5 and o['solver']=='heun' and o['model'].endswith('vp')]
    def by_seed(n): return pd.Series({o['seed']:o['distance'] for o in rows if o['n_steps']==n})
    most = max(o['n_steps'] for o in rows)
    d = (by_seed(2)-by_seed(most)).dropna()
    m,_,low,high = mean_interval(d)
    prior = {n:(A['steps'].get(str(n)) or A['scoreflow'][f'steps-{n}'])['samples']['distance'] for n in (5, 10, 25, 100)}
    return 'open',f"digits: 2 steps of Heun from 1.5 levels less {most}: {m:+.2f} ({low:+.2f} to {high:+.2f}) in distance; ScoreFlow from its prior, one set of draws: " + ', '.join(f'{v:.1f} ({n})' for n,v in prior.items()) + '. More sets would decide'

def between(A, a, b):
    "Distance of draws of digits, `a` less `b`, seed by seed, by both networks, in floors"
    def one(i, net):
        runs = [A['claims'][f'{k}-{i}'] for k in (a, b)]
        x,y = (draws(o, 'samples', net) for o in runs)
        if x['fingerprint']!=y['fingerprint'] or x['floor']!=y['floor']: raise ValueError(f"{a}, {b}: need the same features and images")
        return around(f'digits, {net}', i, *farther(*runs, 'samples', 'samples', net))
    return frame(one(i, net) for net in ('own','vgg') for i in range(3))
def near_diffusion(A):
    "At most one floor farther under both networks"
    vp,ml = (between(A, f'digits-{k}', 'scoreflow-heuristic') for k in ('vp','ml'))
    return judged(vp, -1, least=-1.)[0],f'in floors, NCML less ScoreFlow with its best weighting for draws: {effect(vp, 1)}; claimed: at most one floor farther (our limit). ML less ScoreFlow: {effect(ml, 1)}'
def draws_differ(a, b, sign): return lambda A: judged(between(A, f'scoreflow-{a}', f'scoreflow-{b}'), sign, 1)

def trained(R): # configurations of NCPN on 8×8 crops, with drawn images: names of their seeds
    names = [k for k,o in R.items() if o['data']['source']=='cifar8.npz' and 'samples' in o and not k.startswith(('small-flow','small-vae','crops','few'))]
    def config(k): return '-'.join(k.split('-')[:{'pixelcnn':1, 'width':3}.get(k.split('-')[0], 2)])
    return pd.Series(names).groupby([config(k) for k in names]).apply(list)
def over(R, names, f): return np.array([np.mean([f(R[k]) for k in o]) for o in names])
def bootstrap(f, n, rng=0):
    "95% interval of `f` of resampled indices"
    g = np.random.default_rng(rng)
    v = [f(g.integers(0, n, n)) for _ in range(2000)]
    return np.nanpercentile(v, [2.5, 97.5])
def rank(a, b): return stats.spearmanr(a, b).statistic if len(set(a))>1 and len(set(b))>1 else np.nan
def quality_link(A):
    R = A['claims']
    names,rows = trained(R),[]
    clean,changed = (over(R, names, lambda o, pi=pi: bits(o, pi).mean()) for pi in (0., 1.))
    for net in ('own','vgg'):
        d = over(R, names, lambda o, net=net: floors(o, 'samples', net))
        low,high = bootstrap(lambda i, d=d: rank(changed[i], d[i])-rank(clean[i], d[i]), len(d))
        rows.append(dict(set=f'{net}: {rank(changed, d):+.2f} at π=1 and {rank(clean, d):+.2f} clean, difference', seed=0, mean=rank(changed, d)-rank(clean, d), low=low, high=high))
    rows = frame(rows)
    return verdict(rows, 1),f'rank correlation of distance and bits over {len(names)} configurations of 8×8 crops, ' + effect(rows).replace('; 1)', ')')
def ood_link(A):
    R = A['claims']
    names,rows = trained(R),[]
    changed = over(R, names, lambda o: bits(o, 1.).mean())
    for kind in ('svhn','constant'):
        a = over(R, names, lambda o, kind=kind: auroc(o, kind)['auroc'])
        low,high = bootstrap(lambda i, a=a: rank(changed[i], a[i]), len(a))
        rows.append(dict(set=kind, seed=0, mean=rank(changed, a), low=low, high=high))
    v,found = judged(frame(rows), -1)
    return v,f'rank correlation of AUROC and bits at π=1 over {len(names)} configurations of 8×8 crops: ' + found.replace('; 1)', ')') + '; they are sweeps, not independent'

def detects_as_well(A):
    "VP against PixelCNN++ and a flow on 8×8 crops, areas as if of different images"
    R = A['claims']
    def half(o): return (o['high']-o['low'])/2
    def one(name, kind, rival, k): a,b = auroc(R['small-vp-0'], kind),auroc(R[k], kind); return around(f'{name}, − {rival}', 0, a['auroc']-b['auroc'], (half(a)**2+half(b)**2)**.5)
    rows = frame(one(name, kind, rival, k) for name,kind in {'house numbers':'svhn', 'constant':'constant', 'uniform':'uniform'}.items() for rival,k in {'PixelCNN++':'pixelcnn-0', 'flow':'small-flow-ml'}.items())
    own = auroc(R['small-vp-0'], 'svhn')['auroc']
    return words[int((rows.low>-.05).all())-int((rows.high<-.05).any())],f'AUROC, VP less another model: {effect(rows)}; claimed: none worse by .05 (our limit); contradicted: one surely is. VP itself ranks house numbers at {own:.2f}'

# %% Drift
def drifts(A, noise, part='clean', who='own', key='drift'):
    "Rows by size; with a control, less what draws of single pixels rise by"
    rows = []
    for d in sorted(A['drift'].values(), key=lambda d: next(iter(d['rows'].values()))['size']):
        for k,o in d['rows'].items():
            if noise not in k.split('-') or who not in o or part not in o[who]: continue
            r,s = o[who][part],o['own']['step'] if key=='drift' and part=='clean' and who=='own' else dict(drift=0., stderr=0.)
            err = (r['stderr' if key=='drift' else 'end_stderr']**2+s['stderr']**2)**.5
            seed = k.rsplit('-', 1)[-1]
            rows.append(around(f"{o['size']} pixels", int(seed) if seed.isdigit() else 0, r[key]-(s['drift'] if key=='drift' else 0.), 1.96*err))
    return frame(rows)
def drifting(noise): return lambda A: judged(drifts(A, noise), 1)
def less_drift(A, part, key):
    "NCML less ML, seed by seed, under a third model where there is one: 'drift' is the rise, 'end' the last quarter"
    def rows():
        for size in ('8 pixels','16 pixels','32 pixels'):
            who = 'own' if size.startswith('32') else 'judge'
            a,b = (o[o.set==size].set_index('seed') for o in (drifts(A, 'vp', part, who, key), drifts(A, 'ml', 'clean', who, key)))
            if not a.index.equals(b.index): raise ValueError(f"{size}: need the same seeds")
            for i in a.index:
                x,y = a.loc[i],b.loc[i]
                yield around(f"{size}, {'rise' if key=='drift' else 'last quarter'}", i, x['mean']-y['mean'], ((x.high-x['mean'])**2+(y.high-y['mean'])**2)**.5)
    return frame(rows())
def drifts_less(part): return lambda A: judged(several(less_drift(A, part, 'drift'), less_drift(A, part, 'end')), -1)

# %% T, dropout, attention, other networks
def sweep(R, seed=0, levels=(1, 3, 10, 30, 100)):
    "8×8 crops by the largest noise"
    found = {k:f'small-vp-{seed}' if k==10 else f'levels-{k}-{seed}'.removesuffix('-0') for k in levels}
    return {k:R[o] for k,o in found.items() if o in R}
def short(R): return {k:R[f'short-{k}'] for k in (1, 3, 10, 30, 100)} # 16×16
def shares(R, values=(0.01, 0.1, 0.3, 0.6)): return {k:R['small-vp-0' if k==.1 else f'clean-{k}'] for k in values if k==.1 or f'clean-{k}' in R}
def T_signs(o):
    "Against 10 levels: 1 where clean bits, bits at π=1 and both distances are better beyond an interval for 16 comparisons, -1 where they are worse beyond two standard errors"
    z,found = stats.norm.ppf(1-.025/16),{}
    def of(v, s): return int(v<-z*s)-int(v>2*s)
    for k in set(o)-{10}:
        d = [bits(o[k], pi)-bits(o[10], pi) for pi in (0., 1.)]
        found[k] = [of(v.mean(), v.std(ddof=1)/len(v)**.5) for v in d]
        for net in ('own','vgg'):
            d,half = farther(o[k], o[10], 'samples', 'samples', net)
            found[k].append(of(d, half/2))
    return found
def T_matters(*which):
    "Is there a T that gains in all figures of `which` for every seed, on both sets?"
    def judge(A):
        R,better,worse,texts = A['claims'],[],[],[]
        for name,runs in {'8×8 crops':[o for i in range(3) if len(o := sweep(R, i))==5], '16×16':[short(R)]}.items():
            found = {k:[tuple(T_signs(o)[k][i] for o in runs) for i in which] for k in sorted(set(runs[0])-{10})} # figures, each a sign for each seed
            better.append({k for k,v in found.items() if all(set(o)=={1} for o in v)})
            worse.append(all(any(set(o)=={-1} for o in v) for v in found.values()))
            texts.append(f'{name} (seeds: {len(runs)}): ' + '; '.join(f"{k}: {', '.join({1:'better', -1:'worse'}.get(min(o) if min(o)==max(o) else 0, 'open') for o in v)}" for k,v in found.items()))
        what = ('clean bits','bits at π=1','distance by our own features','by VGG\'s')
        return words[1 if set.intersection(*better) else -1 if all(worse) else 0],f"levels, against 10: {', '.join(what[i] for i in which)}. Claimed: one T is better in both for every seed, on both sets (interval for 16 comparisons). " + '. '.join(texts)
    return judge

def attention(A):
    "Against the same network without attention, and against PixelCNN++"
    R = A['claims']
    rows = frame(row(f'− {name}', 0, bits(R['attention-ml'])-np.mean([bits(R[k]) for k in names], 0)) for name,names in {'NCPN without':['small-ml-0'], 'PixelCNN++':[k for k in R if k.startswith('pixelcnn')]}.items())
    v = {1 if -.03<o.low<o.high<.03 else -1 if o.low>.03 or o.high<-.03 else 0 for o in rows.itertuples()}
    return words[v.pop() if len(v)==1 else 0],f'clean bits of 8×8 crops with attention, {effect(rows, 3)}; claimed: within .03, the most that it changes in the paper'

def dropout(A):
    "Is a quarter of the features set to 0 better than half under NCML, by more than under ML?"
    R = A['claims']
    def less(n, a, b): return bits(R[f'few-{a}-{n}'])-bits(R[f'few-{b}-{n}'])
    helps = row('.25 − 0, ml', 0, less('ml', .25, 0))
    rows = frame([row('.5 − .25, vp', 0, less('vp', .5, .25)), row('.5 − .25, vp − ml', 0, less('vp', .5, .25)-less('ml', .5, .25))])
    more = frame([helps, row('.25 − 0, vp', 0, less('vp', .25, 0)), row('.5 − .25, ml', 0, less('ml', .5, .25))])
    v = judged(rows, 1)[0] if helps['high']<0 else 'open'
    return v,f'20 passes over 1,000 crops of 8×8, clean test bits: {effect(rows, 3)}; claimed: both above 0, where dropout helps ML at all: {effect(more, 3)}'

upper_sets = {'crops8':'crops 8×8', 'faces8':'faces 8×8', 'digits':'digits'}
def vp_less_ml(A, f, kind=''):
    "Figures of `tools/upper.py`, a value for each image: VP less ML"
    for k,name in upper_sets.items():
        d = A['upper'][k+kind]['rows']
        for n,o in d.items():
            if '-vp-' not in n: continue
            ml = d[n.replace('vp', 'ml')]
            if ml['images']!=o['images']: raise ValueError(f"{n}: need the same images")
            yield row(name, int(n.rsplit('-', 1)[1]), f(o)-f(ml))
def part(*keys): return lambda o: np.array(o[keys[0]]) if len(keys)==1 else np.subtract(o[keys[0]], o[keys[1]])
def remaining_bits(A):
    "Bits of images without their last bit"
    rows = frame(vp_less_ml(A, part('marginal'), '-marginal'))
    slack = max(part('quarter', 'marginal')(o).mean() for k in upper_sets for o in A['upper'][k+'-marginal']['rows'].values())
    return judged(rows, -1)[0],f'VP − ML: {effect(rows)}; sums by sequential Monte Carlo, 40 images; a quarter of its paths changes none by more than {slack:.2f}'
def lemma_in_logs(A):
    def gap(o): n = len(o['marginal']); return part('half_upper')(o)[:n]+part('half_last')(o)[:n]-1-part('marginal')(o)
    rows = frame(row(f"{n.split('-')[1]}, {name}", 0, gap(o)) for k,name in upper_sets.items() for n,o in A['upper'][k+'-marginal']['rows'].items())
    v = {1 if (o.high<.05).all() else -1 if (o.low>.05).all() else 0 for _,o in rows.groupby('set')}
    return words[v.pop() if len(v)==1 else 0],f'bits at π=½ less one and less those of the upper bits, at least: {effect(rows)}; claimed: within .05 (our limit)'

def plug_in(A):
    R = A['claims']
    rows = frame(row(f'8×8 crops, {k}', 0, rise(R[f'small-{k}-vp'], 1.)-rise(R[f'small-{k}-ml'], 1.)) for k in ('flow','vae'))
    return verdict(rows, -1),f'price at π=1, VP − ML ({effect(rows, 3)}); both are bounds. Digits: studies/flow'

def completions(A):
    "Each way to complete lower halves, of crops and digits: set and start, largest start?, seed, result of NCML, of ML"
    for k,d in A['complete'].items():
        if '-' not in k: continue
        kind,seed = k.split('-')
        half = [r for r in d['rows'] if r['mask']=='half']
        ml = next(r for r in half if r['model']=='ml')
        for r in half:
            if r is not ml: yield f"{kind}, from {r['levels']:g} levels" if r['levels'] else f'{kind}, t = 0',r['levels']==max(d['config']['starts']),int(seed),r,ml
def completion(A):
    "Energy scores of lower halves completed from T; the other ways beside them"
    rows = [(top, row(name, i, np.subtract(r['energy'], ml['energy']))) for name,top,i,r,ml in completions(A)]
    main,other = (frame(o for top,o in rows if top==k) for k in (True, False))
    return judged(main, -1)[0],f"energy score less ML's, in levels, of completions refined from T: {effect(main)}; by other ways: {effect(other)}"
def diverse(A):
    "Distance of completions of one image from each other, over that from the truth, with bootstrap intervals"
    def ratio(r):
        a,e = np.array(r['apart']),np.array(r['energy'])+np.array(r['apart'])/2
        g = np.random.default_rng(0).integers(0, len(a), (2000,len(a)))
        return dict(zip(('mean','low','high'), (a.mean()/e.mean(), *np.percentile(a[g].mean(1)/e[g].mean(1), [2.5, 97.5])), strict=True))
    rows = frame(dict(set=name, seed=i) | ratio(r) for name,_,i,r,_ in completions(A))
    ml = frame(dict(set=name.split(',')[0], seed=i) | ratio(ml) for name,top,i,_,ml in completions(A) if top)
    if not len(rows): raise KeyError('no completions')
    return words[1 if (rows.low>.9).all() and (rows.high<1.1).all() else -1 if (rows.high<.9).all() else 0],f'distance of completions of an image from each other over that from the truth, 1 for draws of the true distribution: {effect(rows)}; ML {effect(ml)}; claimed: within a tenth of 1 (our limit)'

def classes(A):
    "Share of class-conditional draws in which a classifier finds the class"
    run = load_pretrained('digits-classes')
    net = train_features(get_dls('digits', seed=run.config['data']['seed']), seed=0)
    (u,y),want,n = run.images('test'),torch.arange(10).repeat_interleave(20),200
    x = sample_ncml(run.model, run.sde, (n,*u.shape[1:]), run.config['noise']['t_max'], want, 10, sampler=run.model.sampler, seed=0, bs=n)
    share,real = accuracy(net, x, want),accuracy(net, u, y)
    rows = [dict(zip(('low','high'), stats.binomtest(round(share*n), n).proportion_ci(), strict=True)) | dict(set='digits', share=share, real=real, n=n)]
    ml = []
    for k,d in A['classes'].items():
        rows += [o | dict(set=k, real=d['real']) for name,o in d['rows'].items() if name.endswith('vp-samples')]
        ml += [f"{k} {o['share']:.0%} ({o['low']:.0%} to {o['high']:.0%})" for name,o in d['rows'].items() if name.endswith('ml-clean')]
    good = {1 if o['low']>.8*o['real'] else -1 if o['high']<.5*o['real'] else 0 for o in rows}
    return words[good.pop() if len(good)==1 else 0],'; '.join(f"{o['set']}: {o['share']:.0%} ({o['low']:.0%} to {o['high']:.0%}) of {o['n']} draws show their class to a classifier that is right on {o['real']:.0%} of real images" for o in rows) + '; claimed: 80% as often; contradicted: below half as often. Draws of ML: ' + ', '.join(ml)

def ten_levels(A):
    got = {k:get_sde(k).levels_at(t, 8) for k,t in dict(ve=.5, vp=.1, subvp=.025).items()}
    return words[1 if all(8<v<12 for v in got.values()) else -1],', '.join(f'{k} {v:.1f}' for k,v in got.items()) + ' levels; claimed: 8 to 12'
def parameters(A):
    with torch.device('meta'): n = sum(p.numel() for p in ncpn('papers').parameters())
    return words[int(abs(n/73e6-1)<.02)],f'{n/1e6:.1f} million (within 2%); the papers print neither the width of the embedding nor where attention has biases'
def ablation(a, b, kind='bound', sign=-1):
    "Student's interval over three seeds"
    def judge(A):
        S = A['scoreflow']
        rows = frame([row(f'digits, {kind}, {a} − {b}, over seeds', 0, [S[f'scoreflow-{a}-{i}']['likelihood'][kind]['bpd']-S[f'scoreflow-{b}-{i}']['likelihood'][kind]['bpd'] for i in range(3)])])
        v,found = judged(rows, sign)
        return v,found.replace('; 1)', ')')
    return judge
def costs(A):
    "CPU seconds for an image: NCPN's likelihood, ScoreFlow's ODE and bound"
    def mean(rows): return np.mean([o['seconds']/o['n'] for o in rows])
    flows = [A['scoreflow'][f'scoreflow-importance-{i}']['likelihood'] for i in range(3)]
    return mean([A['claims'][f'digits-vp-{i}']['likelihood']['exact'] for i in range(3)]),*(mean([o[k] for o in flows]) for k in ('ode','bound'))
def one_pass(A):
    a,ode,bound = costs(A)
    return words[int(a<min(ode, bound))],f"one pass of the network, on digits; ScoreFlow's ODE at tolerance 1e-4 takes about {ode/a:.0f} times the CPU time, its bound of 64 times about {bound/a:.0f} times; claimed: NCPN takes the least"
def cheaper_bound(A):
    _,ode,bound = costs(A)
    return words[int(bound<ode)],f'a bound of 64 times takes about {bound/ode:.2f} of the CPU time of the ODE at tolerance 1e-4 (digits)'

def shown(text): return lambda A: ('proved', text)
def misprint(text): return lambda A: ('misprint', text)
def open_(text): return lambda A: ('open', text)
def untested(text): return lambda A: ('not tested', text)

# %% One judge for each claim
def area(noise, kind, b=None): return lambda A: judged(areas(A['claims'], noise, kind, b), 1)

judges = {
    'likelihood-minor-perturbation': dearer('ml'),
    'ws-all-reduced': everyone,
    'most-models-sensitive': most_models,
    'robust-at-t0-ve': robust('ve'),
    'robust-at-t0-subvp': robust('subvp'),
    'robust-at-t0-vp': robust('vp'),
    'ws-different-noise': any_change,
    'changed-bits-ve': better('ve'),
    'changed-bits-subvp': better('subvp'),
    'changed-bits-vp': better('vp'),
    'sota-perturbed': rivals(bits),
    'ncml-models-upper-bits': bits_at_half,
    'ncml-remaining-bits': remaining_bits,
    'still-not-robust': dearer('vp'),
    'more-robust-than-all-t0': most_robust,
    'diffusion-robust': diffusion,
    'clean-bits-ve': cleaner('ve'),
    'clean-bits-subvp': cleaner('subvp'),
    'clean-bits-vp': cleaner('vp'),
    'table1-vp-clean': vp_clean,
    'table1-vp-changed': vp_changed,
    'table1-vp-draws': vp_nearest,
    'table1-schedule-order': schedule,
    'table1-clean-order': clean_order,
    'table1-draws-order': draws_order,
    'competitive-clean': competitive,
    'celeba-vp-robust': better('vp', kinds=('faces 8×8',)),
    'celeba-vp-clean': cleaner('vp', 1, ('faces 8×8',)),
    'celeba-ve-robust': better('ve', kinds=('faces 8×8',)),
    'celeba-subvp-robust': better('subvp', kinds=('faces 8×8',)),
    'celeba-subvp-clean': cleaner('subvp', 1, ('faces 8×8',)),
    'celeba-ve-clean': cleaner('ve', kinds=('faces 8×8',)),
    'half-bpd-collapse': spread,
    'capacity-explains': capacity,
    'robust-grows-with-t': falls,
    'robust-at-one-level': at_a_level,
    'follows-schedule': follows,
    'two-part-fid-ve': closer('ve'),
    'two-part-fid-subvp': closer('subvp'),
    'two-part-fid-vp': closer('vp'),
    't0-fid-ve': closer('ve', 'clean'),
    't0-fid-subvp': closer('subvp', 'clean'),
    't0-fid-vp': closer('vp', 'clean'),
    't0-sampling-unstable-ve': steadier('ve'),
    't0-sampling-unstable-subvp': steadier('subvp'),
    't0-sampling-unstable-vp': steadier('vp'),
    'refinement-improves': refined,
    'fewer-steps': few_steps,
    'quality-near-diffusion': near_diffusion,
    'ar-errors-compound': drifting('ml'),
    'fig1-ncml': drifts_less('samples'),
    'fig1-ncml-t0': drifts_less('clean'),
    'ws-fid-correlates-perturbed': quality_link,
    'robust-vp-svhn': area('vp', 'svhn'),
    'ood-vp-const': area('vp', 'constant'),
    'ood-vp-uniform': area('vp', 'uniform'),
    'ood-svhn-ve': area('ve', 'svhn', 'ml'),
    'ood-svhn-subvp': area('subvp', 'svhn', 'ml'),
    'ood-svhn-vp': area('vp', 'svhn', 'ml'),
    'ood-const-ve': area('ve', 'constant', 'ml'),
    'ood-const-subvp': area('subvp', 'constant', 'ml'),
    'ood-const-vp': area('vp', 'constant', 'ml'),
    'ood-tracks-robustness': ood_link,
    'ood-equal-or-better': detects_as_well,
    'class-conditional-stable': classes,
    'completion-better': completion,
    'completion-diverse': diverse,
    'T-ten-levels': ten_levels,
    'T-can-improve-bits': T_matters(0, 1),
    'T-can-improve-draws': T_matters(2, 3),
    'dropout-reduced': dropout,
    'table1-attention-small-gain': attention,
    'plug-in-any-model': plug_in,
    'o1-likelihood': one_pass,
    'params-73m': parameters,
    'minimal-imperceptible': untested(f'peak signal-to-noise ratio {20*np.log10(255):.1f} dB at π = 1; no eyes were tested'),
    'keeps-mle-properties': untested('asymptotics; at our size NCML needs more clean bits'),
    'eq8-regularization': shown('the loss with a share p_clean at t = 0 is that sum; with the uniform μ of the papers the weight of t = 0 is zero, and λ undefined'),
    'mle-special-case': shown('p_clean = 1 is maximum likelihood'),
    'score-byproduct': shown('the gradient of log p_t is the score of an exact density to rounding'),
    'no-stationary-prior': shown('any start in [0, T]; which is best is measured'),
    't0-sampling-standard': shown('one sampler serves both, pixel by pixel'),
    'ood-gradnorm-identity': shown('computed as a sum of logarithms, since p underflows'),
    'lemma-31': misprint('the proof has = where it means ≠; mended, it holds by contradiction'),
    'lemma-32-logs': lemma_in_logs,
    'lemma-32': misprint('lacks a factor 2^−d; with it exact on an enumerable distribution'),
    'eq3-reverse-sde': misprint('printed with f + g² + ∇log p; f − g² ∇log p reverses the noise of an exact density'),
    'sf-likelihood-weighting': ablation('weighting', 'heuristic'),
    'sf-importance-sampling': ablation('importance', 'weighting'),
    'sf-fid-tradeoff': draws_differ('weighting', 'heuristic', 1),
    'sf-importance-draws': draws_differ('importance', 'weighting', 1),
    'sf-variational-dequant': ablation('variational', 'importance'),
    'sf-dequant-fid': draws_differ('variational', 'importance', -1),
    'sf-bound-cheaper': cheaper_bound,
    'abs-imagenet-332': open_('no job: ImageNet 64×64 is beyond a quarter of an hour on a GPU'),
    'abs-fid-1209': open_('jobs draw, draw-sde of tools/gpu.yaml at 32×32, and the weights of Inception'),
    'train-cost': open_('no job: 500,000 steps of that network take days; job long is what ten minutes give'),
}

class Seen(dict):
    "A folder of results that notes in `names` which of them are read"
    def __init__(self, d, names): super().__init__(d); self.names = names
    def __getitem__(self, k): self.names.add(k); return super().__getitem__(k)
    def items(self): self.names.update(self); return super().items()
    def values(self): self.names.update(self); return super().values()

def kinds(names): return ', '.join(sorted({n.split('-')[0] for n in names}))
def verdicts(A, claims):
    "A row for each claim; `files` are the first words of the names of the results that its judge read, by folder of `nbs/results`"
    def one(o):
        seen = {k:set() for k in A}
        try: v,found = judges[o['id']]({k:Seen(d, seen[k]) for k,d in A.items()})
        except KeyError as e: v,found = 'incomplete',f'{e} is missing'
        files = '; '.join(f'{k}: {kinds(n)}' for k,n in seen.items() if n)
        return dict(claim=o['claim'], source=o['source'], verdict=v, found=found, paper=o['paper'], page=o['page'], files=files)
    return pd.DataFrame([one(o) for o in claims], index=[o['id'] for o in claims])
