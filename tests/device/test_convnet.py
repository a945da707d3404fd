import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import get_output
from theano.gpuarray.basic_ops import GpuFromHost, HostFromGpu

import gradmod

from . import graphs
from .convnet import (RULES, gradient, images, network, rectifiers, relu,
                      saliency)

pytestmark = pytest.mark.filterwarnings('ignore:The `image_shape` keyword')


@pytest.fixture(scope='module')
def functions(cpu):  # which starts first
    return {str(name): saliency(network(*rectifiers(name)))
            for name in [None] + RULES}


@pytest.mark.parametrize('name', ['None'] + RULES)
def test_values_are_those_of_the_cpu(functions, cpu, name):
    graphs.assert_close(functions[name](images()), cpu()[name])
    if name != 'None':
        assert graphs.difference(cpu()[name][1], cpu()['None'][1]) > .01
        np.testing.assert_array_equal(cpu()[name][0], cpu()['None'][0])


@pytest.mark.parametrize('name', RULES)
def test_no_more_transfers_than_the_plain_gradient(functions, name):
    plain, f = functions['None'], functions[name]
    # the images in, the outputs and the gradient out
    assert graphs.transfers(plain) == {'GpuFromHost': 1, 'HostFromGpu': 2}
    assert graphs.transfers(f) == graphs.transfers(plain)


@pytest.mark.parametrize('name', RULES)
def test_rules_run_on_the_device_between_its_values(functions, name):
    f = functions[name]
    if name == 'ZeroBackprop':  # which leaves nothing to run
        assert not graphs.rule_nodes(f)
        return
    graphs.assert_free(f)
    assert len(graphs.rule_nodes(f)) == 4
    for node in graphs.rule_nodes(f):
        assert not [i for i in node.inputs
                    if i.owner and isinstance(i.owner.op, GpuFromHost)]
        assert not [n for n, _ in node.outputs[0].clients
                    if isinstance(n.op, HostFromGpu)]


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
    graphs.assert_close(f(images()), cpu()['GuidedBackprop'])


def test_rules_on_an_expression_that_is_built(cpu, functions):
    x = T.tensor4('x')
    out = get_output(network(relu, relu), x, deterministic=True)
    guided, places = gradmod.override_in(out, gradmod.GuidedBackprop)
    assert len(places) == 4 and guided.type == out.type
    f = theano.function([x], [guided, gradient(guided, x)])
    graphs.assert_free(f)
    assert graphs.transfers(f) == graphs.transfers(functions['None'])
    graphs.assert_close(f(images()), cpu()['GuidedBackprop'])
