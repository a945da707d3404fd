"""What a gradient override costs: run time, compile time and peak memory.

Compares the gradient of several networks with respect to their input, plain
and under the rules, and made in two other ways: the recipe with
`grad_overrides`, whose op stays opaque, and Theano's `inline=True`. Prints
ratios to the plain gradient, medians with the quartiles behind them: figures
of single runs on a shared machine say little, ratios of what ran side by side
do.

Run times are taken interleaved, call by call, in several processes, in which
the functions are compiled in random order and glibc keeps freed memory: where a
process's memory lies, and how often it is fetched anew, is chance and moves a
ratio by some hundredths. Compile times and memory are taken in one
process for each network and way, in turns: a graph is built and compiled once
to fill Theano's cache of C code, then again, timed. So they are of the graph
and its optimization, not of g++. One BLAS thread.
"""
import argparse
import json
import random
import resource
import subprocess
import sys
import time

import gradmod  # before Theano and Lasagne
import lasagne
import numpy as np
import theano
import theano.tensor as T

NETWORKS = (['mlp-%d' % d for d in (10, 50, 100, 200)] +
            ['resnet-%d' % n for n in (1, 3, 5, 9)] +
            ['elementwise-30', 'elementwise-100', 'scaled-30', 'lstm-1'])
RULES = {
    'guided': 'GuidedBackprop', 'deconv': 'DeconvNet', 'zero': 'ZeroBackprop',
    'guided-gradient': 'GuidedGradient', 'through': 'BackpropThrough',
    'beta': 'BetaSmooth', 'rectgrad': 'RectGrad',
    'straight': 'StraightThrough', 'reversal': 'GradientReversal'}
DEFAULT_RULES = ['guided', 'deconv', 'zero']
OTHERS = ['opaque', 'inline']


# In the children

def rectifier(network, way):
    """A rectifier with a rule, or without."""
    rectify = lasagne.nonlinearities.rectify
    if network.startswith(('elementwise', 'scaled')):
        # 15 layers of Lasagne's, (x + abs(x)) / 2, without anything but
        # elementwise operations between them, and Theano's own gradient does
        # not compile in a minute: it needs exponential time.
        def rectify(x):  # noqa: F811
            return T.maximum(x, 0)

    ops = {}

    def recipe(x):
        """The recipe, mended: one op a type, grad_overrides."""
        if x.type not in ops:
            inner = x.type()
            ops[x.type] = theano.OpFromGraph(
                [inner], [rectify(inner)], inline=way == 'inline',
                grad_overrides=grad)
        return ops[x.type](x)

    def grad(inputs, out_grads):
        (x,), (g,) = inputs, out_grads
        return [g * (x > 0).astype(x.dtype) * (g > 0).astype(x.dtype)]
    if way in RULES:
        return getattr(gradmod, RULES[way])(rectify)
    return rectify if way == 'plain' else recipe


def build(network, f, weights):
    """An input, the gradient of a score with respect to it, and a value for it."""
    kind, size = network.split('-')
    rng, size = np.random.RandomState(0), int(size)

    def shared(value):
        return theano.shared(np.asarray(value, 'float32'))
    if kind == 'mlp':
        x = h = T.matrix('x')
        for _ in range(size):
            h = f(T.dot(h, shared(rng.randn(256, 256) * (2. / 256) ** .5)) +
                  shared(np.zeros(256)))
        value = rng.randn(64, 256)
    elif kind in ('elementwise', 'scaled'):
        x = h = T.matrix('x')
        for _ in range(size):
            scale = 1 + .3 * rng.randn(1024)
            h = f((h * shared(scale) if kind == 'scaled' else h) +
                  shared(.3 * rng.randn(1024)))
        value = rng.randn(64, 1024)
    elif kind == 'lstm':
        x = T.tensor3('x')
        net = lasagne.layers.InputLayer((None, 20, 32), x)
        net = lasagne.layers.LSTMLayer(
            net, 64, nonlinearity=f,
            cell=lasagne.layers.Gate(W_cell=None, nonlinearity=f))
        h = lasagne.layers.get_output(net)[:, -1]
        value = rng.randn(32, 20, 32)
    else:
        x = T.tensor4('x')
        h = resnet(x, size, f, rng, weights)
        value = rng.rand(64, 3, 8, 8).repeat(4, 2).repeat(4, 3) - .5
    return x, theano.grad(h.max(axis=1).sum(), x), value.astype('float32')


def resnet(x, n, f, rng, weights):
    """The logits of the CIFAR-10 ResNet of 6 n + 2 layers, in x's dtype."""
    values = []
    if weights and n == 5:
        with np.load(weights) as archive:
            values = [archive[f'arr_{i}'] for i in range(len(archive.files))]

    def parameter(initial):
        value = values.pop(0) if values else initial
        assert value.shape == np.shape(initial)
        return theano.shared(np.asarray(value, x.dtype))

    def convolve(h, n_in, n_out, stride=1):
        W = parameter(rng.randn(n_out, n_in, 3, 3) * (2. / 9 / n_in) ** .5)
        beta, gamma, mean, inv_std = [
            parameter(np.full(n_out, v)).dimshuffle('x', 0, 'x', 'x')
            for v in (0., 1., 0., 1.)]
        h = T.nnet.conv2d(h, W, border_mode='half', filter_flip=False,
                          subsample=(stride, stride))
        return (h - mean) * (gamma * inv_std) + beta
    h = f(convolve(x, 3, 16))
    width = 16
    for stage in range(3):
        for block in range(n):
            wider = stage > 0 and block == 0
            out = width * 2 if wider else width
            inner = f(convolve(h, width, out, 2 if wider else 1))
            inner = convolve(inner, out, out)
            if wider:
                s = h[:, :, ::2, ::2]
                zeros = T.zeros_like(s[:, ::2])
                h = T.concatenate([zeros, s, zeros], axis=1)
            h, width = f(h + inner), out
    W = parameter(rng.randn(64, 10) * .1)
    return T.dot(h.mean(axis=(2, 3)), W) + parameter(np.zeros(10))


def compile_once(network, way, weights):
    start = time.perf_counter()
    x, gradient, value = build(network, rectifier(network, way), weights)
    function = theano.function([x], gradient)
    return function, value, time.perf_counter() - start


def measure_compile(args, network, way):
    """Seconds to build and compile, and the process's peak memory in MB."""
    from sides import peak
    seconds = []
    for _ in range(args.compiles + 1):
        function, value, duration = compile_once(network, way, args.weights)
        seconds.append(duration)
    function(value)
    return {'compile': [np.median(seconds[1:])], 'memory': [peak()]}


def measure_run(args, network, *ways):
    """Seconds of each call, by way, interleaved."""
    functions = {}
    for way in random.sample(ways, len(ways)):
        functions[way], value, _ = compile_once(network, way, args.weights)
        functions[way](value)
    start = time.perf_counter()
    functions['plain'](value)
    calls = max(1, int(.02 / (time.perf_counter() - start)))
    seconds = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way in random.sample(ways, len(ways)):
            start = time.perf_counter()
            for _ in range(calls):
                functions[way](value)
            seconds[way].append((time.perf_counter() - start) / calls)
    return seconds


def child(args, kind, *what):
    resource.setrlimit(resource.RLIMIT_AS, (args.memory * 2 ** 30,) * 2)
    sys.setrecursionlimit(100000)
    measure = measure_compile if kind == 'compile' else measure_run
    print('RESULT ' + json.dumps(measure(args, *what)))


# In the parent

def call(limit, kind, *what):
    """What a child of the same arguments prints; nothing beyond its limits."""
    from sides import environment
    # keep what is freed: to fetch it anew is a tenth of a call
    more = dict.fromkeys(['MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_']
                         if kind == 'run' else [], '4000000000')
    try:
        out = subprocess.run(
            [sys.executable] + sys.argv + ['--child', kind, *what],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit,
            env=environment(**more), universal_newlines=True).stdout
    except subprocess.TimeoutExpired:
        return {}
    found = [line for line in out.splitlines() if line.startswith('RESULT ')]
    return json.loads(found[0][len('RESULT '):]) if found else {}


def measure(args, network):
    """All figures of one network: {way: {figure: [seconds or MB]}}."""
    ways = ['plain'] + args.rules + args.others
    figures = {way: {'compile': [], 'memory': [], 'run': []} for way in ways}
    for _ in range(args.processes):
        for way in list(ways):
            result = call(args.limit, 'compile', network, way)
            if not result:
                ways.remove(way)
            for figure, values in result.items():
                figures[way][figure] += values
    for _ in range(args.processes):
        for way, seconds in call(None, 'run', network, *ways).items():
            figures[way]['run'] += seconds
    return figures


def show(results):
    from sides import ratio
    print('| network | way | run time | compile time | peak memory |\n'
          + '|---' * 5 + '|')
    for network, figures in results.items():
        for way, own in figures.items():
            row = [network, way]
            for figure in 'run', 'compile', 'memory':
                values, plain = own[figure], figures['plain'][figure]
                row.append(
                    'over the limit' if not values else
                    f'{np.median(values):.3g} '
                    + ('MB' if figure == 'memory' else 's') if way == 'plain'
                    else ratio(values, plain[:len(values)]))
            print('|', ' | '.join(row), '|')


def plot(results, path):
    """Compile time over depth, both logarithmic."""
    from matplotlib import pyplot
    figure, both = pyplot.subplots(1, 2, figsize=(8, 3.2))
    for axes, kind, title in zip(both, ('mlp', 'resnet'), (
            'MLP: layers', 'ResNet: blocks a stage')):
        depths = sorted((int(network.split('-')[1]), figures)
                        for network, figures in results.items()
                        if network.startswith(kind))
        for way in ['plain'] + DEFAULT_RULES + OTHERS:
            points = [(depth, np.median(figures[way]['compile']))
                      for depth, figures in depths
                      if figures.get(way, {}).get('compile')]
            if points:
                axes.plot(*zip(*points), marker='o', ms=4, label=way)
        axes.set(xscale='log', yscale='log', xlabel=title,
                 ylabel='compile time (s)')
        ticks = [depth for depth, _ in depths]
        axes.set_xticks(ticks)
        axes.set_xticklabels(ticks)
        axes.minorticks_off()
    axes.legend(fontsize=7, loc='center left', bbox_to_anchor=(1, .5))
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    from sides import parser
    parse = parser(__doc__)
    add = parse.add_argument
    add('--only', metavar='NAME', nargs='+', default=NETWORKS,
        choices=NETWORKS, help='of: ' + ' '.join(NETWORKS))
    add('--rules', metavar='RULE', nargs='*', default=DEFAULT_RULES,
        choices=list(RULES), help='of: ' + ' '.join(RULES))
    add('--others', metavar='WAY', nargs='*', default=OTHERS, choices=OTHERS)
    add('--weights', metavar='PATH', help='cifar_model_n5.npz, for resnet-5')
    add('--rounds', type=int, default=15,
        help='timed calls of each function, a process')
    add('--compiles', type=int, default=2, help='timed compiles a process')
    add('--processes', type=int, default=3, help='processes a way')
    add('--limit', type=int, default=300,
        help='seconds to compile, a process')
    add('--memory', type=int, default=10, help='GB for a process')
    add('--json', metavar='PATH', help='write the raw figures')
    add('--plot', metavar='PATH', help='draw compile time over depth')
    add('--child', nargs='+', help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.child:
        return child(args, *args.child)
    results = {}
    for network in args.only:
        print('measuring', network, file=sys.stderr)
        results[network] = measure(args, network)
        if args.json:  # what has been measured is kept, whatever comes next
            with open(args.json, 'w') as f:
                json.dump(results, f, indent=1)
    show(results)
    if args.plot:
        plot(results, args.plot)


if __name__ == '__main__':
    main()
