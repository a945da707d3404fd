"""Relevance as zennit has it. See the README here.

The pretrained weights are not part of the project: GRADMOD_SQUEEZENET_WEIGHTS
and GRADMOD_CIFAR_WEIGHTS are the paths of compressed_SqueezeNet.net and of
cifar_model_n5.npz. Without them weights are random.
"""
import os

from gradmod import lrp, modified  # before Theano and Lasagne

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
import torch
from lasagne import layers as L
from torch import nn

from gradmod._theano import change_flags

from ..benchmarks import relevance as squeezenet
from ..benchmarks.peers import made_up_arrays
from ..test_lrp import BatchNorm

zennit = squeezenet.import_zennit()
import zennit.canonizers  # noqa: E402
import zennit.composites  # noqa: E402
import zennit.layer  # noqa: E402
import zennit.rules  # noqa: E402
import zennit.types  # noqa: E402

COMPOSITES = {
    'EpsilonPlus': {}, 'EpsilonPlusFlat': {}, 'EpsilonAlpha2Beta1': {},
    'EpsilonAlpha2Beta1Flat': {}, 'ExcitationBackprop': {},
    'EpsilonGammaBox': dict(low=-3., high=4., gamma=.5, epsilon=.1)}
RULES = {'Epsilon': (.1,), 'ZPlus': (), 'AlphaBeta': (3, 2), 'Gamma': (.7,),
         'WSquare': (), 'Flat': (), 'ZBox': (-3., 4.)}


@pytest.fixture
def fast_compile(little_c_code, monkeypatch):
    monkeypatch.setattr(theano.config, 'optimizer', 'fast_compile')


class Residual(nn.Module):
    def __init__(self, *body, shortcut=None):
        super().__init__()
        self.body = nn.Sequential(*body)
        self.shortcut = shortcut or nn.Sequential()
        self.sum = zennit.layer.Sum()

    def forward(self, x):
        return self.sum(torch.stack([self.body(x), self.shortcut(x)], dim=-1))


class Shortcut(nn.Module):
    """Every other pixel, and zeros around as many channels."""

    def forward(self, x):
        n = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, n, n))


def array(parameter):
    return None if parameter is None else parameter.detach().numpy().copy()


def lasagne_of(module, net):
    """The same in Lasagne, upon `net`."""
    kind = type(module).__name__
    if kind == 'Sequential':
        for part in module:
            net = lasagne_of(part, net)
        return net
    if kind == 'Residual':
        return L.ElemwiseSumLayer([lasagne_of(module.body, net),
                                   lasagne_of(module.shortcut, net)])
    if kind == 'Shortcut':
        n = net.output_shape[1] // 2
        for axis in 2, 3:
            net = L.SliceLayer(net, slice(None, None, 2), axis)
        return L.PadLayer(net, [(n, n), (0, 0), (0, 0)], batch_ndim=1)
    if kind in ('ReLU', 'Tanh'):
        f = dict(ReLU=lasagne.nonlinearities.rectify, Tanh=T.tanh)[kind]
        return L.NonlinearityLayer(net, f)
    if 'BatchNorm' in kind:
        norm = BatchNorm(net)
        inv_std = (module.running_var + module.eps) ** -.5
        for parameter, v in zip(norm.params, (
                module.bias, module.weight, module.running_mean, inv_std)):
            parameter.set_value(array(v))
        return norm
    if kind in ('MaxPool2d', 'AvgPool2d'):
        return L.Pool2DLayer(
            net, module.kernel_size, module.stride,
            ignore_border=not module.ceil_mode,
            mode='max' if kind == 'MaxPool2d' else 'average_exc_pad')
    if kind == 'Parallel':
        return L.ConcatLayer([lasagne_of(v, net) for v in module])
    if kind == 'AdaptiveAvgPool2d':
        return L.GlobalPoolLayer(net)
    if kind == 'Flatten':
        return L.FlattenLayer(net)
    W, b = array(module.weight), array(module.bias)
    if kind == 'Linear':
        return L.DenseLayer(net, len(W), W=W.T, b=b, nonlinearity=None)
    flipped = W[(slice(None), slice(None)) + (slice(None, None, -1),) * (
        W.ndim - 2)]
    if kind == 'ConvTranspose2d':
        return L.TransposedConv2DLayer(
            net, W.shape[1], W.shape[2:], module.stride, module.padding[0],
            W=flipped, b=b, nonlinearity=None)
    layer = getattr(L, kind.upper().replace('CONV', 'Conv') + 'Layer')
    size, stride, pad = module.kernel_size, module.stride, module.padding
    if kind == 'Conv1d':
        size, stride, pad = size[0], stride[0], pad[0]
    return layer(net, len(W), size, stride, pad, W=flipped, b=b,
                 nonlinearity=None)


def ours(module, x, seed, composite):
    with change_flags(floatX=str(x.dtype)):
        variable = T.TensorType(x.dtype, [False] * x.ndim)('x')
        net = lasagne_of(module, L.InputLayer((None,) + x.shape[1:], variable))
        with modified(net, composite):
            z = L.get_output(net, deterministic=True)
        r = theano.grad(None, variable, known_grads={
            z: theano.shared(seed.astype(x.dtype))})
        mode = theano.Mode('c|py', theano.config.optimizer)
        return theano.function([variable], [z, r], mode=mode)(x)


def theirs(module, x, seed, composite):
    x = torch.tensor(x, requires_grad=True)
    with composite.context(module) as changed:
        z = changed(x)
        r, = torch.autograd.grad(z, x, torch.tensor(seed).to(z))
    return z.detach().numpy(), r.numpy()


def check(module, x, seed, our_composite, their_composite, bound):
    """Both outputs and both relevances agree."""
    pairs = zip(ours(module, x, seed, our_composite),
                theirs(module, x, seed, their_composite))
    errors = [abs(a - b).max() / abs(b).max() for a, b in pairs]
    print(errors)
    assert max(errors) < bound


def randomized(module, rng):
    """Parameters of both signs, also batch normalization's gamma."""
    for parameter in module.parameters():
        parameter.data = torch.tensor(rng.randn(*parameter.shape))
    for part in module.modules():
        if hasattr(part, 'running_var'):
            n = len(part.running_var)
            part.running_mean = torch.tensor(rng.randn(n))
            part.running_var = torch.tensor(rng.rand(n) + .5)
            part.eps = 0  # zennit's merged module divides by (1 + eps) ** .5
    return module.double().eval()


NETWORKS = {
    'dense': ((7,), lambda: [
        nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8, bias=False), nn.ReLU(),
        nn.Linear(8, 3)]),
    'series': ((3, 12), lambda: [
        nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Conv1d(4, 5, 3, stride=2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(25, 3)]),
    'images': ((3, 11, 11), lambda: [
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6),
        nn.ReLU(), Residual(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6),
                            nn.ReLU(), nn.Conv2d(6, 6, 1)), nn.ReLU(),
        nn.MaxPool2d(2), Residual(nn.Conv2d(6, 12, 1, 2), nn.BatchNorm2d(12),
                                  shortcut=Shortcut()), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4),
        nn.Tanh(), nn.Linear(4, 3)])}
if hasattr(L, 'TransposedConv2DLayer'):
    NETWORKS['transposed'] = (2, 4, 4), lambda: [
        nn.ConvTranspose2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    NETWORKS['volumes'] = (2, 5, 6, 6), lambda: [
        nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(),
        nn.Conv3d(4, 3, 2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 3)]


def network(name):
    rng = np.random.RandomState(0)
    shape, build = NETWORKS[name]
    return (randomized(nn.Sequential(*build()), rng), rng.randn(2, *shape),
            rng.randn(2, 3))


def merging(name, **kwargs):
    return getattr(zennit.composites, name)(
        canonizers=[zennit.canonizers.SequentialMergeBatchNorm()], **kwargs)


@pytest.mark.parametrize('composite', COMPOSITES)
@pytest.mark.parametrize('name', NETWORKS)
def test_composites(name, composite, fast_compile):
    kwargs = COMPOSITES[composite]
    check(*network(name), getattr(lrp, composite)(**kwargs),
          merging(composite, **kwargs), 1e-10)


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('name', NETWORKS)
def test_rules(name, rule, fast_compile):
    """In all linear layers."""
    module, x, seed = network(name)
    for i, part in enumerate(module):  # PyTorch's gradient has one winner
        module[i] = nn.AvgPool2d(2) if 'MaxPool' in str(part) else part
    composite = merging('LayerMapComposite', layer_map=[
        (zennit.types.Linear, getattr(zennit.rules, rule)(*RULES[rule]))
    ] + zennit.composites.layer_map_base())
    check(module, x, seed, lrp.Composite({
        lrp.linear: getattr(lrp, rule)(*RULES[rule])}), composite, 1e-10)


# In float32, on networks that were trained.

def compressed():
    arrays = squeezenet.arrays(os.environ.get('GRADMOD_SQUEEZENET_WEIGHTS'))
    module = squeezenet.torch_network(v.astype('float32') for v in arrays)
    return module, squeezenet.photographs(), dict(low=-123., high=151.)


def resnet():
    path = os.environ.get('GRADMOD_CIFAR_WEIGHTS')
    arrays = made_up_arrays()
    if path:
        with np.load(path) as archive:
            arrays = [archive[f'arr_{i}'] for i in range(len(archive.files))]

    def convolution(stride=1):
        W, beta, gamma, mean, inv_std = [
            torch.tensor(arrays.pop(0)) for _ in range(5)]
        layer = nn.Conv2d(W.shape[1], len(W), 3, stride, 1, bias=False)
        norm = nn.BatchNorm2d(len(W), eps=0)
        layer.weight.data, norm.weight.data, norm.bias.data = W, gamma, beta
        norm.running_mean, norm.running_var = mean, inv_std ** -2
        return [layer, norm]
    parts = convolution() + [nn.ReLU()]
    for stage in range(3):
        for block in range(5):
            smaller = stage > 0 and block == 0
            parts += [Residual(*convolution(2 if smaller else 1), nn.ReLU(),
                               *convolution(),
                               shortcut=Shortcut() if smaller else None),
                      nn.ReLU()]
    dense = nn.Linear(64, 10)
    dense.weight.data, dense.bias.data = [torch.tensor(v.T) for v in arrays]
    module = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           dense).float().eval()
    x = squeezenet.photographs()[:, ::-1, 2:226, 2:226].reshape(
        2, 3, 32, 7, 32, 7).mean(axis=(3, 5)) / 255
    return module, x, dict(low=-1., high=1.)


@pytest.mark.parametrize('composite', COMPOSITES)
@pytest.mark.parametrize('trained', [compressed, resnet])
def test_trained_networks(trained, composite):
    module, x, bounds = trained()
    x, kwargs = x.astype('float32'), COMPOSITES[composite]
    kwargs = {**kwargs, **bounds} if kwargs else {}
    with torch.no_grad():
        z = module(torch.tensor(x)).numpy()
    seed = z * (z == z.max(axis=1, keepdims=True))  # the largest logit
    check(module, x, seed, getattr(lrp, composite)(**kwargs),
          merging(composite, **kwargs), 1e-5)
