"""Maps as Captum has them, of the same networks. See the README here.

Captum's steps of integrated gradients are float32 numbers, hence the tolerance.
Its DeepLift is complete for max-pooling in some networks only, and its max-pooling
gives the first of several equal values all: pools come before rectifiers here.
"""
import gradmod  # before Theano and Lasagne

import numpy as np
import pytest
import torch
from captum import attr
from lasagne import layers as L
from lasagne.nonlinearities import tanh
from theano import tensor as T
from torch import nn

CLASSES, rng = 4, np.random.RandomState(0)
IMAGES, AGES = rng.randn(5, 2, 9, 8), rng.randn(5, 3)
WORDS = rng.randint(0, 11, (5, 6))
LABELS = np.array([0, 3, 1, 2, 3])
BASELINE, BASELINES = rng.randn(2, 9, 8), rng.randn(3, 2, 9, 8)
OURS = dict(method='integrated_gradients', steps=20)
THEIRS = dict(n_steps=20, method='riemann_middle')
silently = pytest.mark.filterwarnings('ignore')  # Captum names its hooks


def tensor(array):
    return torch.tensor(np.asarray(array))


class Net(nn.Module):
    """A network of images; or of these and numbers; or of words."""

    def __init__(self, kind, pools=True, convolutions=2):
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.pools, self.convolutions = kind, pools, convolutions
        if kind == 'words':
            self.embedding = nn.Embedding(11, 5)
            self.conv1, self.pool = nn.Conv1d(5, 7, 3), nn.MaxPool1d(2)
            features = 14
        else:
            self.conv1, self.pool = nn.Conv2d(2, 5, 3), nn.MaxPool2d(2)
            features = 45
        if convolutions == 2:
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
            self.conv2 = nn.Conv2d(5, 6, 2)
            features = 24 if pools else 180
        features += 3 * (kind == 'both')
        self.dense, self.tanh = nn.Linear(features, 6), nn.Tanh()
        self.out = nn.Linear(6, CLASSES)
        self.double()

    def forward(self, x, *ages):
        if self.kind == 'words':
            x = self.embedding(x).transpose(1, 2)
        x = self.conv1(x)
        if self.pools:
            x = self.pool(x)
        if self.convolutions == 2:
            x = self.relu2(self.conv2(self.relu1(x)))
        x = torch.cat([x.flatten(1), *ages], dim=1)
        return self.out(self.tanh(self.dense(x)))

    def layers(self):
        """The same network, of Lasagne."""
        def weights(module):
            W = module.weight.detach().numpy()
            W = W[:, :, ::-1] if W.ndim == 3 else W[:, :, ::-1, ::-1] if (
                W.ndim == 4) else W.T  # Lasagne convolves, PyTorch correlates
            return dict(W=W.copy(), b=module.bias.detach().numpy().copy(),
                        nonlinearity=None)
        if self.kind == 'words':
            net = L.InputLayer((None, 6), T.lmatrix('words'))
            net = L.EmbeddingLayer(
                net, 11, 5, self.embedding.weight.detach().numpy().copy(),
                name='embedding')
            net = L.Conv1DLayer(L.DimshuffleLayer(net, (0, 2, 1)), 7, 3,
                                **weights(self.conv1))
            net = L.MaxPool1DLayer(net, 2)
        else:
            net = L.InputLayer((None, 2, 9, 8), T.dtensor4('images'), 'images')
            net = L.Conv2DLayer(net, 5, 3, **weights(self.conv1))
            if self.pools:
                net = L.MaxPool2DLayer(net, 2)
        if self.convolutions == 2:
            net = L.NonlinearityLayer(net, name='relu1')
            net = L.Conv2DLayer(net, 6, 2, **weights(self.conv2))
            net = L.NonlinearityLayer(net, name='relu2')
        net = L.FlattenLayer(net)
        if self.kind == 'both':
            net = L.ConcatLayer([net, L.InputLayer(
                (None, 3), T.dmatrix('ages'), 'ages')])
        net = L.DenseLayer(net, 6, **weights(self.dense))
        net = L.NonlinearityLayer(net, tanh)
        return L.DenseLayer(net, CLASSES, **weights(self.out))


@pytest.fixture(scope='module')
def images():
    net = Net('images')
    return net, net.layers()


def ours(layers, samples=IMAGES, target=LABELS, **how):
    fixed = isinstance(target, tuple)
    f = gradmod.compile_saliency_function(
        layers, target=target if fixed else 'given', **how)
    return f(samples, None if fixed else target)


def agree(got, want, tolerance=1e-12):
    want = want.detach().numpy()
    scale = abs(want).max()
    assert got.shape == want.shape and scale > 1e-4
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize('how, captum, more', [
    ({}, attr.Saliency, dict(abs=False)),
    (dict(method='gradient_x_input'), attr.InputXGradient, {}),
    (dict(rule=gradmod.GuidedBackprop), attr.GuidedBackprop, {}),
    (dict(rule=gradmod.DeconvNet), attr.Deconvolution, {})])
@silently
def test_gradients(images, how, captum, more):
    net, layers = images
    want = captum(net).attribute(tensor(IMAGES).requires_grad_(),
                                 target=tensor(LABELS), **more)
    agree(ours(layers, **how), want)


def test_integrated_gradients(images):
    net, layers = images
    want = attr.IntegratedGradients(net).attribute(
        tensor(IMAGES), tensor(BASELINE[np.newaxis]), target=tensor(LABELS),
        **THEIRS)
    agree(ours(layers, baseline=BASELINE, **OURS), want, 1e-7)


@pytest.mark.parametrize('how', [dict(convolutions=1), dict(pools=False)])
@pytest.mark.parametrize('baseline', [BASELINE, BASELINES], ids=['1', '3'])
@silently
def test_deeplift(how, baseline):
    net = Net('images', **how)
    f = gradmod.compile_saliency_function(net.layers(), method='deeplift',
                                          baseline=baseline)
    details = f.explain(IMAGES, LABELS)
    assert abs(details.completeness_error).max() < 1e-12
    method, baseline = ((attr.DeepLift, baseline[np.newaxis])
                        if baseline.ndim == 3 else (attr.DeepLiftShap, baseline))
    want, error = method(net).attribute(
        tensor(IMAGES), tensor(baseline), target=tensor(LABELS),
        return_convergence_delta=True)
    assert abs(error).max() < 1e-12
    agree(details.maps, want, 1e-8)


def test_grad_cam(images):
    net, layers = images
    want = attr.LayerGradCam(net, net.relu2).attribute(
        tensor(IMAGES), target=tensor(LABELS), relu_attributions=True)
    agree(ours(layers, method='gradcam', resize=False), want[:, 0])


def test_layers_and_units(images):
    net, layers = images
    want = attr.LayerGradientXActivation(net, net.relu1).attribute(
        tensor(IMAGES), target=tensor(LABELS))
    agree(ours(layers, method='gradient_x_input', wrt='relu1'), want)
    zero = tensor(np.zeros((1, 2, 9, 8)))
    want = attr.LayerIntegratedGradients(net, net.relu1).attribute(
        tensor(IMAGES), zero, target=tensor(LABELS), **THEIRS)
    # there b is the layer's output for a black image
    (relu1,) = [v for v in L.get_all_layers(layers) if v.name == 'relu1']
    b = L.get_output(relu1, np.zeros((1, 2, 9, 8)))
    agree(ours(layers, wrt='relu1', baseline=b, **OURS), want, 1e-7)
    want = attr.NeuronGradient(net, net.relu2).attribute(
        tensor(IMAGES), (2, 1, 1))
    agree(ours(layers, target=('relu2', 2, 1, 1)), want)


@pytest.mark.parametrize('methods', [
    ('IntegratedGradients', THEIRS, OURS),
    ('DeepLift', {}, dict(method='deeplift'))], ids=lambda v: v[0])
@silently
def test_two_inputs(methods):
    net = Net('both', convolutions=1)
    arrays = tensor(IMAGES), tensor(AGES)
    baselines = tensor(BASELINE[np.newaxis]), tensor(np.full((1, 3), .5))
    method, more, how = methods
    want = getattr(attr, method)(net).attribute(
        arrays, baselines, target=tensor(LABELS), **more)
    got = ours(net.layers(), {'ages': AGES, 'images': IMAGES},
               baseline=[BASELINE, .5], **how)
    agree(got['images'], want[0], 1e-7)
    agree(got['ages'], want[1], 1e-7)


def test_words():
    net = Net('words', convolutions=1)
    want = attr.LayerIntegratedGradients(net, net.embedding).attribute(
        tensor(WORDS), tensor(np.zeros((1, 6), int)), target=tensor(LABELS),
        **THEIRS)
    # there b is the embedding of the word 0
    b = net.embedding.weight[0].detach().numpy()
    agree(ours(net.layers(), WORDS, wrt='embedding', baseline=b, **OURS), want,
          1e-7)
