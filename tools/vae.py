"""A small variational autoencoder, noise conditional, as a rival in the sanity test: `ncml_train --model tools.vae:vae`."""
import torch
from torch import nn
from ncml.logistic import DiscretizedLogisticMixture, n_params, uniform_params
from ncml.ncpn import NoiseEmbedding
from ncml.sde import as_time, content_generators, draw_noise, draw_uniform

class VAE(nn.Module):
    "Its `log_prob` is the ELBO of one draw; the pixels given the latents are those of NCPN"
    kind = 'bound'
    def __init__(self, shape, n_bits, t_max=1., n_classes=0, n_filters=64, d=32, n_mix=10, seed=0, warm=500):
        super().__init__()
        c = shape[0]
        self.shape,self.n_bits,self.t_max,self.n_classes,self.d,self.seed = tuple(shape),n_bits,t_max,n_classes,d,seed
        self.emb = NoiseEmbedding(2*n_filters, t_max, n_classes)
        def conv(ni, nf, stride=1): return nn.Sequential(nn.Conv2d(ni, nf, 3, stride, 1), nn.SiLU())
        def up(ni, nf): return nn.Sequential(nn.Upsample(scale_factor=2), conv(ni, nf))
        f = n_filters
        self.encoder = nn.Sequential(conv(c, f), conv(f, 2*f, 2), conv(2*f, 2*f), conv(2*f, 4*f, 2), conv(4*f, 4*f))
        self.to_z,self.from_z = nn.Conv2d(6*f, 2*d, 1),nn.Conv2d(d+2*f, 4*f, 1)
        self.decoder = nn.Sequential(conv(4*f, 4*f), up(4*f, 2*f), conv(2*f, 2*f), up(2*f, f), conv(f, f))
        self.out = nn.Conv2d(f, n_params(c, n_mix), 1)
        self.warm = warm # steps until the prior counts in full
        self.register_buffer('steps', torch.zeros(()))
        self.to_z.bias.data[d:] = -2. # begin with latents that tell images apart
        self.out.weight.data.mul_(.1)
        self.out.bias.data = uniform_params(c, n_mix)

    def forward(self, x, t=0., y=None): return self.log_prob(x, t, y)

    def wide(self, emb, like): return emb[...,None,None].expand(-1, -1, *like.shape[2:])

    def pixels(self, z, t, emb): # a mixture for each, given latents
        h = self.from_z(torch.cat([z, self.wide(emb, z)], 1))
        return DiscretizedLogisticMixture(self.out(self.decoder(h)), self.shape[0], self.n_bits, t==0)

    def log_prob(self, x, t=0., y=None): # (n,c,h,w) -> (n,), nats
        t = as_time(t, x, self.t_max)
        emb = self.emb(t, y)
        h = self.encoder(x)
        mean,log_std = self.to_z(torch.cat([h, self.wide(emb, h)], 1)).chunk(2, 1)
        gens = None if self.training else content_generators(x, self.seed, self.n_bits, 'vae')
        z = mean + log_std.exp()*draw_noise(torch.empty_like(mean), gens)
        kl = ((mean**2 + (2*log_std).exp() - 1)/2 - log_std).flatten(1).sum(1) # to the standard normal
        if self.training: # the prior comes in slowly, or the latents are never used
            self.steps += 1
            kl = kl*(self.steps/self.warm).clamp(max=1)
        return self.pixels(z, t, emb).log_prob(x).flatten(1).sum(1) - kl

    @torch.no_grad()
    def sampler(self, shape, t=0., y=None, generators=None, bs=64, progress=False): # (n,c,h,w)
        like,done = self.emb.clean,[]
        for i in range(0, shape[0], bs):
            gens = generators[i:i+bs] if isinstance(generators, list) else generators
            z = draw_noise(like.new_empty(min(bs, shape[0]-i), self.d, *(o//4 for o in self.shape[1:])), gens)
            now = torch.full((len(z),), float(t), device=like.device)
            p = self.pixels(z, now, self.emb(now, None if y is None else y[i:i+bs]))
            done.append(p.sample(draw_uniform(p.params.new_empty(len(z), p.noise_channels, *self.shape[1:]), gens)))
        return torch.cat(done)

def vae(shape, n_bits, t_max=1., n_classes=0, net=None):
    "A `VAE` for `ncml_train --model`"
    return VAE(shape, n_bits, t_max, n_classes, **(net or {}))
