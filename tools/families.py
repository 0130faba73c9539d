#!/usr/bin/env python3
"""Train a small model of another project's real code, examine it with our instruments, and write what came out as JSON:
`tools/families.py OUT --peer tarflow=PATH`, with the path of a checkout, or `installed` for a package. One process for each peer."""
import importlib
import importlib.metadata
import inspect
import json
import math
import shlex
import sys
import time
from functools import partial
from pathlib import Path
import torch
from fastcore.script import call_parse
from torch import nn
from ncml import __version__
from ncml.data.loaders import digits, photo_patches
from ncml.instruments.adapters import Bound, Dequantized, DensityOnSDE, LossDensity, ODEDensity, ScoreOnSDE, ddpm, edm, from_latents, rectified, velocity_density
from ncml.instruments.certify import certify, failures, verdict
from ncml.instruments.exact import GaussianMixture
from ncml.loss import NoiseDist, bpd, ncml_loss, score
from ncml.ncpn import NCPN
from ncml.sanity import sanity_test
from ncml.sde import VESDE, VPSDE, expand_to, level_width, to_unit

n_bits,shape,D = 8,(1,8,8),64
delta = level_width(n_bits)

skipped = ['integral','sampler','bf16','fp16'] # by the certifier: 64 dimensions, a loss draws nothing, no GPU

def photos(split, n): return photo_patches(8, n, split)[:,1:2] # the green channel
def jitter(x): return x + delta*(torch.rand_like(x)-.5)

def train(net, loss, steps, lr=2e-3, bs=64):
    "Adam with one cycle; seconds, and the mean loss of the first and the last tenth"
    x,opt = to_unit(photos('train', 6000), n_bits),torch.optim.Adam(net.parameters(), lr)
    schedule,start,losses = torch.optim.lr_scheduler.OneCycleLR(opt, lr, steps),time.time(),[]
    net.train()
    for _ in range(steps):
        opt.zero_grad()
        o = loss(x[torch.randint(len(x), (bs,))])
        o.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.)
        opt.step()
        schedule.step()
        losses.append(o.item())
    net.eval()
    k = max(1, steps//10)
    return dict(steps=steps, lr=lr, bs=bs, seconds=round(time.time()-start, 1), first=sum(losses[:k])/k, last=sum(losses[-k:])/k)

class Net(nn.Module):
    "A small network of vectors or images and a time, for libraries that leave the network to their users"
    def __init__(self, width=192):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D+5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, D))
    def forward(self, x, t, **kwargs):
        t = t.reshape(-1, 1).expand(len(x), 1).to(x)
        return self.net(torch.cat([x.flatten(1), t, (3*t).sin(), (3*t).cos(), (9*t).sin(), (9*t).cos()], 1)).view_as(x)

# For each peer: `build` trains a model of the real code, `wrap` (the user's lines, counted) makes a density of it,
# and `own` compares with the project's own number. `ts` are the times of the certifier beside 0.

def with_draws(model, u):
    "Bits of a `Dequantized` model, and the images with noise that it gave its density"
    seen = []
    hook = model.model.f.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ours = bpd(model, to_unit(u, n_bits))
    hook.remove()
    return ours,seen[0]

class tarflow:
    name,url = 'TarFlow','https://github.com/apple/ml-tarflow'
    config = dict(in_channels=1, img_size=8, patch_size=2, channels=64, num_blocks=4, layers_per_block=2)
    noise,steps = 'uniform',700
    def build(self):
        net = importlib.import_module('transformer_flow').Model(**self.config)
        def loss(x):
            x = x + .05*torch.randn_like(x) if self.noise=='gaussian' else jitter(x)*255/256
            z,_,logdets = net(x)
            return net.get_loss(z, logdets)
        return net,train(net, loss, self.steps)
    def wrap(self, net):
        def read(f, x): return from_latents(*f(x*255/256)[::2], per_dim=True) + D*math.log(255/256)
        return Dequantized(Bound(net, read), n_bits)
    def own(self, net, model, u):
        "evaluate_bpd.py, with the draws that `Dequantized` makes"
        ours,x = with_draws(model, u)
        z,_,logdets = net(x*255/256)
        own = importlib.import_module('evaluate_bpd')
        return ours,(-own.gaussian_log_prob(z)/D - logdets)/math.log(2)

class tarflow_noise(tarflow):
    name,noise = 'TarFlow, σ = 0.05','gaussian'

class itarflow:
    name,url = 'iTARFlow','https://github.com/apple/ml-itarflow'
    config = dict(in_channels=1, img_size=8, patch_sizes=[2], channels=[64], num_blocks=4, layers_per_block=[2])
    sde,steps = VESDE(sigma_max=1.),700
    ts = [VESDE(sigma_max=1.).t_from_std(torch.tensor(o)).item() for o in (.05, .3)]
    def build(self):
        net = importlib.import_module('transformer_flow').Model(**self.config)
        def loss(x): # train.py with --t0 1e-2 --t1 3e-1 --reweight t
            t = torch.rand(len(x), 1)*(.3-.01) + .01
            z,_,logdets,mid = net(x + t.view(-1, 1, 1, 1)*torch.randn_like(x), None, t)
            return net.get_loss(z, logdets, mid, t)
        return net,train(net, loss, self.steps)
    def wrap(self, net):
        def read(f, x, t): return from_latents(*f(x, t=t[:,None])[:3:2], per_dim=True)
        return Dequantized(DensityOnSDE(Bound(net, read), self.sde, edm, least=.01), n_bits)
    def own(self, net, model, u):
        "get_loss with weight 1 at t = 0.1, and the constant that it leaves out"
        x = to_unit(u, n_bits) + .1*torch.randn(len(u), *shape)
        t = torch.full((len(u), 1), .1)
        z,_,logdets,mid = net(x, None, t)
        own = torch.stack([net.get_loss(z[i:i+1], logdets[i:i+1], mid, 0*t[i:i+1]+1) for i in range(len(u))])
        s = self.sde.t_from_std(torch.tensor(.1, dtype=torch.float64))
        return -model.model.log_prob(x, s.float())/(D*math.log(2)),(own + math.log(2*math.pi)/2)/math.log(2)

    def more(self, net, model, u):
        "Parameters of the README's configurations"
        lib,counts = importlib.import_module('transformer_flow'),{}
        for size,patch,width in ((64,2,1280), (128,4,1600), (256,8,2176)):
            with torch.device('meta'): big = lib.Model(3, size, [patch], [width], 4, [4,4,4,24], num_classes=1000)
            counts[size] = sum(p.numel() for p in big.parameters())
        return dict(parameters=counts)

class jet:
    name,url,package = 'Jet (PyTorch port)','https://pypi.org/project/jet-pytorch','jet-pytorch'
    config = dict(patch_size=2, patch_dim=4, n_patches=16, img_dims=(8,8), coupling_layers=10, block_depth=1, block_width=64, num_heads=2)
    steps = 500
    def build(self):
        jet = importlib.import_module('jet_pytorch')
        net = jet.Jet(**self.config)
        def loss(x):
            z,logdet = net((jitter(x)+delta/2).permute(0, 2, 3, 1))
            return importlib.import_module('jet_pytorch.util').bits_per_dim(z, logdet, D)[0]
        return net,train(net, loss, self.steps)
    def wrap(self, net):
        def read(f, x): return from_latents(*f((x+delta/2).permute(0, 2, 3, 1)))
        return Dequantized(Bound(net, read), n_bits)
    def own(self, net, model, u):
        "jet_pytorch.util.bits_per_dim, with the draws that `Dequantized` makes"
        ours,x = with_draws(model, u)
        z,logdet = net((x+delta/2).permute(0, 2, 3, 1))
        own = importlib.import_module('jet_pytorch.util').bits_per_dim
        return ours,torch.stack([own(z[i:i+1], logdet[i:i+1], D)[0] for i in range(len(u))])

    def more(self, net, model, u):
        "Examined in float32 only"
        o = certify(lambda x: model.log_prob(x.float(), 0.), shape, n_bits, x=to_unit(u, n_bits), skip=skipped)
        return dict(in_float32=dict(verdict=verdict(o), failures=failures(o)))

class zuko:
    name,url,package = 'zuko, neural spline flow','https://github.com/probabilists/zuko','zuko'
    config = dict(features=D, transforms=2, hidden_features=(128,128))
    steps = 1000
    def build(self):
        net = importlib.import_module('zuko').flows.NSF(**self.config)
        return net,train(net, lambda x: -net().log_prob(jitter(x).flatten(1)).mean()/D, self.steps)
    def wrap(self, net):
        return Dequantized(net, n_bits)
    def own(self, net, model, u):
        "log_prob of its distribution, and the cell, at t = 0.1: no draws"
        x = to_unit(u, n_bits)
        return bpd(model, x, .1),-(net().log_prob(x.flatten(1))/D + math.log(delta))/math.log(2)

class nflows:
    name,url,package = 'nflows, RealNVP','https://github.com/bayesiains/nflows','nflows'
    config = dict(features=D, hidden_features=128, num_layers=6, num_blocks_per_layer=2, batch_norm_between_layers=True)
    steps = 1000
    def build(self):
        net = importlib.import_module('nflows.flows.realnvp').SimpleRealNVP(**self.config)
        return net,train(net, lambda x: -net.log_prob(jitter(x).flatten(1)).mean()/D, self.steps)
    def wrap(self, net):
        return Dequantized(Bound(net, lambda f, x: f.log_prob(x.flatten(1))), n_bits)
    def own(self, net, model, u):
        "Flow.log_prob, and the cell, at t = 0.1: no draws"
        x = to_unit(u, n_bits)
        return bpd(model, x, .1),-(net.log_prob(x.flatten(1))/D + math.log(delta))/math.log(2)

class normflows:
    name,url,package = 'normflows, RealNVP with ActNorm','https://github.com/VincentStimper/normalizing-flows','normflows'
    config = dict(base='DiagGaussian', flows=8, hidden=128)
    steps = 1000
    def build(self):
        nf = importlib.import_module('normflows')
        flows = []
        for _ in range(self.config['flows']):
            net = nf.nets.MLP([D//2, self.config['hidden'], self.config['hidden'], D], init_zeros=True)
            flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(D, mode='swap'), nf.flows.ActNorm(D)]
        net = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), flows)
        return net,train(net, lambda x: net.forward_kld(jitter(x).flatten(1))/D, self.steps)
    wrap,own = nflows.wrap,nflows.own

class flow_matching:
    name,url,package = 'flow_matching','https://github.com/facebookresearch/flow_matching','flow_matching'
    config,steps,ts = dict(path='CondOTProbPath', net='Net(192)', solver='rk4, 10 steps, exact trace'),3000,[.3]
    def build(self):
        path,net = importlib.import_module('flow_matching.path').CondOTProbPath(),Net()
        def loss(x):
            o = path.sample(t=torch.rand(len(x)), x_0=torch.randn_like(x), x_1=jitter(x))
            return (net(o.x_t, o.t)-o.dx_t).pow(2).mean()
        return net,train(net, loss, self.steps)
    def wrap(self, net):
        return Dequantized(velocity_density(Bound(net, lambda f, x, t: -f(x, 1-t)), n_steps=10), n_bits)
    def own(self, net, model, u):
        "ODESolver.compute_likelihood with the exact divergence; rk4, both with 80 steps"
        solver = importlib.import_module('flow_matching.solver').ODESolver(velocity_model=net)
        def log_p0(z): return from_latents(z, torch.zeros(len(z)))
        x = jitter(to_unit(u, n_bits))
        own = solver.compute_likelihood(x.flatten(1), log_p0, step_size=1/80, method='rk4', exact_divergence=True)[1]
        model.model.steps = dict(n_steps=80)
        ours,model.model.steps = model.model.log_prob(x),dict(n_steps=10)
        return -ours/(D*math.log(2)),-own/(D*math.log(2))
    def more(self, net, model, u):
        "The same velocity as a score on a VP SDE"
        x = jitter(to_unit(u, n_bits))
        o = ODEDensity(ScoreOnSDE(Bound(net, lambda f, x, t: -f(x, 1-t)), VPSDE(), 'velocity', rectified), VPSDE(), n_steps=10, t_min=1e-5)
        gap = (o.log_prob(x) - model.model.log_prob(x))/(D*math.log(2))
        return dict(vp_minus_velocity_bpd=dict(mean=gap.mean().item(), worst=gap.abs().max().item()))

class azula:
    name,url = 'azula','https://github.com/probabilists/azula'
    config,steps,ts = dict(denoiser='KarrasDenoiser', schedule='ours, VP', backbone='Net(192)', ode='rk4, 10 steps, exact trace'),3000,[.05]
    sde = VPSDE()
    def build(self):
        lib,sde = importlib.import_module('azula.denoise'),self.sde
        class Ours(importlib.import_module('azula.noise').Schedule):
            def __call__(self, t): return sde.mean_coef(t),sde.std(t)
        net = lib.KarrasDenoiser(Net(), Ours())
        return net,train(net, lambda x: net.loss(jitter(x), 1e-3 + .999*torch.rand(len(x))**2).mean(), self.steps)
    def wrap(self, net):
        score = ScoreOnSDE(Bound(net, lambda f, x, t: f(x, t).mean), self.sde, 'data')
        return Dequantized(ODEDensity(score, self.sde, t_min=1e-3, n_steps=10), n_bits)
    own = None
    def more(self, net, model, u):
        "The other direction: azula's samplers draw from a density of ours"
        lib,sampling,sde = importlib.import_module('azula.denoise'),importlib.import_module('azula.sample'),self.sde
        truth = GaussianMixture(sde, torch.tensor([[-.6,-.3],[.5,-.5],[.2,.7]]), torch.tensor([.5,.3,.2]), .04)
        class Ours(lib.Denoiser): # ten lines, with the schedule
            schedule = net.schedule
            def forward(self, x_t, t, **kwargs):
                m,s = (expand_to(o, x_t) for o in self.schedule(t.expand(len(x_t))))
                return lib.DiracPosterior((x_t + s**2*score(truth, x_t, t.expand(len(x_t))))/m)
        out = {}
        for name in ('DDIMSampler', 'DDPMSampler', 'HeunSampler'):
            sampler = getattr(sampling, name)(Ours(), stop=1e-4, steps=500, silent=True)
            x = sampler(sampler.init((4000, 2)))
            ref = truth.sample(4000)
            lp,lp2 = truth.log_prob(x, 0.),truth.log_prob(ref, 0.)
            se = (lp.var()/4000 + lp2.var()/4000).sqrt()
            out[name] = dict(mean_log_p=lp.mean().item(), truth=lp2.mean().item(), stderr=se.item(),
                mean_gap=((x.mean(0)-ref.mean(0)).abs()/(2*ref.var(0)/4000).sqrt()).max().item())
        return out

class diffusers:
    name,url,package = 'diffusers, UNet2DModel','https://github.com/huggingface/diffusers','diffusers'
    config = dict(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,64), layers_per_block=1, norm_num_groups=8,
                  down_block_types=('DownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','UpBlock2D'))
    steps,ts,sde,own = 1000,[.05],VPSDE(),None
    changes = ["PyTorch's fused attention, which has no second derivative, is switched off"]
    def build(self):
        torch.backends.cuda.enable_flash_sdp(False) # on the CPU too
        lib = importlib.import_module('diffusers')
        net,self.schedule = lib.UNet2DModel(**self.config),lib.DDPMScheduler(num_train_timesteps=1000)
        def loss(x):
            x,z,i = jitter(x),torch.randn_like(x),torch.randint(1000, (len(x),))
            return (net(self.schedule.add_noise(x, z, i), i).sample - z).pow(2).mean()
        return net,train(net, loss, self.steps)
    def wrap(self, net):
        kernel = partial(ddpm, alphas_cumprod=self.schedule.alphas_cumprod)
        score = ScoreOnSDE(Bound(net, lambda f, x, t: f(x, t).sample), self.sde, 'noise', kernel)
        return Dequantized(ODEDensity(score, self.sde, t_min=1e-3, n_steps=8, trace='hutchinson'), n_bits)

class pixelcnn:
    name,url = 'PixelCNN++ (PyTorch port)','https://github.com/pclucas14/pixel-cnn-pp'
    config,steps = dict(nr_resnet=1, nr_filters=24, nr_logistic_mix=5, input_channels=1),600
    changes = ['utils.py line 264: `print e` is Python 2 and became `print(e)`', 'Tensor.cuda does nothing: the loss has it built in']
    def build(self):
        torch.Tensor.cuda = lambda self, *_, **__: self
        self.lib = importlib.import_module('model')
        net = self.lib.PixelCNN(**self.config)
        return net,train(net, lambda x: self.lib.discretized_mix_logistic_loss_1d(x, net(x, sample=True))/(len(x)*D*math.log(2)), self.steps)
    def wrap(self, net):
        params = Bound(net, lambda f, x: f(x, sample=True)) # adds the padding anew; else it keeps that of the first batch
        return LossDensity(params, self.lib.discretized_mix_logistic_loss_1d, n_bits)
    def own(self, net, model, u):
        "discretized_mix_logistic_loss_1d of each image"
        x = to_unit(u, n_bits)
        return bpd(model, x),torch.stack([self.lib.discretized_mix_logistic_loss_1d(o[None], net(o[None], sample=True))/(D*math.log(2)) for o in x])
    def more(self, net, model, u):
        "The same network on 4-bit digits: the loss has 256 levels built in"
        digit = LossDensity(model.net, model.loss, 4)
        o = certify(digit, shape, x=to_unit(digits('test')[0][:50], 4), only=['answers','mass','causality'])
        return dict(on_4_bits=dict(failures=failures(o), checks=rows(o)))

class ncpn_ml: # a control: our own network of the same kind, with about the same time
    name,url,p_clean,steps,own = 'NCPN by ML (ours)','',1.,600,None
    config = dict(n_filters=24, n_blocks=1, n_mix=5, n_heads=0)
    def build(self):
        sde = VPSDE()
        t_max = sde.t_at_levels(10, n_bits)
        net,dist = NCPN(1, n_bits, t_max=t_max, **self.config),NoiseDist(sde, t_max, self.p_clean)
        return net,train(net, lambda x: ncml_loss(net, sde, x, noise_dist=dist), self.steps)
    def wrap(self, net):
        return net

class ncpn_ncml(ncpn_ml):
    name,p_clean = 'NCPN by NCML (ours)',.1
    ts = [VPSDE().t_at_levels(10, n_bits)]

def rows(table): return json.loads(table.to_json(orient='records'))

@call_parse
def main(
    out:Path, # Folder of the JSON file
    peer:str='', # NAME=PATH of a checkout, or NAME=installed
    commit:str='', # Of the checkout
    n:int=200, # Test images of the sanity table
    seed:int=0, # Of weights and training
    steps:int=0, # Of training, default the peer's
):
    torch.set_num_threads(1)
    kind,path = peer.split('=', 1)
    o = globals()[kind]()
    if path!='installed': sys.path.insert(0, path)
    if steps: o.steps = steps
    torch.manual_seed(seed)
    net,training = o.build()
    model,u = o.wrap(net),photos('valid', n)
    result = dict(family=o.name, url=o.url, commit=commit, package=getattr(o, 'package', None), changes=getattr(o, 'changes', []),
        versions={k: importlib.metadata.version(k) for k in ('torch', getattr(o, 'package', None)) if k} | dict(ncml=__version__, python=sys.version.split()[0]),
        command=shlex.join(['python', 'tools/families.py', *({str(out):'OUT', peer:f'{kind}=PATH'}.get(a, a) for a in sys.argv[1:])]),
        device='CPU, one thread', seed=seed, config=o.config, training=training, parameters=sum(p.numel() for p in net.parameters()),
        data=dict(train="photo_patches(8, 6000, 'train')[:,1:2]", test=f"photo_patches(8, {n}, 'valid')[:,1:2]", n_bits=n_bits),
        kind=getattr(model, 'kind', None), details=getattr(model, 'details', {}), wrap=inspect.cleandoc('\n'+inspect.getsource(o.wrap)))
    if o.own:
        with torch.no_grad(): a,b = o.own(net, model, u[:32])
        result['own'] = dict(what=o.own.__doc__, images=32, ours=a.mean().item(), theirs=b.mean().item(), largest_gap=(a-b).abs().max().item())
    start = time.time()
    found = certify(model, shape, n_bits, ts=[0., *getattr(o, 'ts', [])], x=to_unit(u[:50], n_bits), skip=skipped)
    result['certify'] = dict(verdict=verdict(found), failures=failures(found), checks=rows(found), seconds=round(time.time()-start, 1))
    start = time.time()
    result['sanity'] = dict(details=getattr(model, 'details', {}), rows=rows(sanity_test(model, u, n_bits, bs=100)), seconds=round(time.time()-start, 1))
    if hasattr(o, 'more'): result['more'] = dict(what=o.more.__doc__) | o.more(net, model, u[:32])
    out.mkdir(parents=True, exist_ok=True)
    (out/f'{kind}.json').write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)+'\n', encoding='utf-8')
    print(json.dumps({k:result.get(k) for k in ('family','training','own')}), result['certify']['verdict'], *result['certify']['failures'], sep='\n')
    for r in result['sanity']['rows']: print(r['pi'], round(r['bpd'], 4), round(r['stderr'], 4))
    print(result.get('more'))
