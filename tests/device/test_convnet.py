import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import get_output
from theano.gpuarray.basic_ops import GpuFromHost, HostFromGpu

import gradmod
from gradmod.device import move_to_device

from . import graphs
from .convnet import (RULES, gradient, images, network, rectifiers, relu,
                      saliency)

pytestmark = pytest.mark.filterwarnings('ignore:The `image_shape` keyword')


@pytest.fixture(scope='module')
def functions(cpu):  # which starts first
    return {str(name): saliency(network(*rectifiers(name)))
            for name in [None] + RULES}


@pytest.mark.parametrize('name', ['None'] + RULES)
def test_values_are_those_of_the_cpu(functions, cpu, report, name):
    differences = [graphs.difference(got, want) for got, want
                   in zip(functions[name](images()), cpu()[name])]
    report('%s: differences from the CPU, relative to the largest value: '
           'output %.1e, gradient %.1e' % ((name,) + tuple(differences)))
    assert max(differences) < 1e-5
    if name != 'None':
        assert graphs.difference(cpu()[name][1], cpu()['None'][1]) > .01
        np.testing.assert_array_equal(cpu()[name][0], cpu()['None'][0])


@pytest.mark.parametrize('name', RULES)
def test_no_more_transfers_than_the_plain_gradient(functions, report, name):
    plain, f = functions['None'], functions[name]
    report('%s: transfers %d, plain gradient %d' % (
        name, sum(graphs.transfers(f).values()),
        sum(graphs.transfers(plain).values())))
    # the images in, the outputs and the gradient out
    assert graphs.transfers(plain) == {'GpuFromHost': 1, 'HostFromGpu': 2}
    assert graphs.transfers(f) == graphs.transfers(plain)


@pytest.mark.parametrize('name', RULES[:2])
def test_rules_run_on_the_device_between_its_values(functions, name):
    f = functions[name]
    graphs.assert_free(f)
    assert len(graphs.rule_nodes(f)) == 4
    for node in graphs.rule_nodes(f):
        assert not [i for i in node.inputs
                    if i.owner and isinstance(i.owner.op, GpuFromHost)]
        assert not [n for n, _ in node.outputs[0].clients
                    if isinstance(n.op, HostFromGpu)]


def test_zero_leaves_nothing_to_run(functions):
    assert not graphs.rule_nodes(functions['ZeroBackprop'])


def test_functions_pickle(functions, child, tmpdir):
    path, out = str(tmpdir.join('f')), str(tmpdir.join('out'))
    f = functions['GuidedBackprop']
    with open(path, 'wb') as file:
        pickle.dump((f, images()), file, -1)
    child('-c', 'import gradmod, pickle\n'
                'f, x = pickle.load(open(%r, "rb"))\n'
                'pickle.dump(f(x), open(%r, "wb"))' % (path, out))()
    with open(out, 'rb') as file:
        got = pickle.load(file)
    for a, b in zip(got, f(images())):
        np.testing.assert_array_equal(a, b)


def test_a_network_on_another_device_stays_there(dev1, cpu):
    f = saliency(network(*rectifiers('GuidedBackprop'), context=dev1), dev1)
    assert graphs.transfers(f) == {'GpuFromHost': 1, 'HostFromGpu': 2}
    assert graphs.contexts(f) == {dev1}
    graphs.assert_free(f)
    for got, want in zip(f(images()), cpu()['GuidedBackprop']):
        assert graphs.difference(got, want) < 1e-5


def test_rules_on_an_expression_that_is_built(cpu, functions):
    x = T.tensor4('x')
    out = get_output(network(relu, relu), x, deterministic=True)
    guided, places = gradmod.override_in(out, gradmod.GuidedBackprop)
    assert len(places) == 4 and guided.type == out.type
    f = theano.function([x], [guided, gradient(guided, x)])
    graphs.assert_free(f)
    assert graphs.transfers(f) == graphs.transfers(functions['None'])
    for got, want in zip(f(images()), cpu()['GuidedBackprop']):
        assert graphs.difference(got, want) < 1e-5


def test_an_opaque_override_costs_transfers(functions, report):
    # the recipe with the arguments that Theano 1.0 has for it
    class Recipe(object):
        def __init__(self, move):
            self.move = move
            self.ops = {}

        def __call__(self, x):
            x = self.move(x)
            if x.type not in self.ops:
                z = x.type()
                self.ops[x.type] = theano.OpFromGraph(
                    [z], [self.move(relu(z))], grad_overrides=self.grad)
            return self.ops[x.type](x)

        def grad(self, inputs, gs):
            (z,), (g,) = inputs, gs
            return [g * (z > 0).astype(g.dtype) * (g > 0).astype(g.dtype)]

    counts = []
    for how, move in [('on the host', lambda x: x),
                      ('with values moved to the device', move_to_device)]:
        recipe = Recipe(move)
        f = saliency(network(recipe, recipe))
        for got, want in zip(f(images()),
                             functions['GuidedBackprop'](images())):
            assert graphs.difference(got, want) < 1e-5
        counts.append(sum(graphs.transfers(f).values()))
        report('the opaque recipe, %s: transfers %d' % (how, counts[-1]))
    assert counts[0] > 3
