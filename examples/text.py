"""Train a small network on sentences, and colour the words that it goes by."""
import argparse
import sys

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import (Conv1DLayer, DenseLayer, DimshuffleLayer,
                            EmbeddingLayer, GlobalPoolLayer, InputLayer,
                            get_all_layers, get_output)

from common import MISSING, add_arguments, generator, integer, picture
from digits import train
try:
    from gradmod.plot import plot_words
except ImportError as error:
    sys.exit(MISSING % error)

CLASSES = ['bad', 'neutral', 'good']
ADJECTIVES = [  # what alone makes a sentence one of each class
    'dull tedious clumsy noisy pointless awful bland wooden'.split(),
    'new old short long french silent local first'.split(),
    'superb moving funny clever charming brilliant fresh gripping'.split()]
RELEVANT = ADJECTIVES[0] + ADJECTIVES[2]
FILLERS = {
    'NOUN': 'film play story actor singer plot scene song book end'.split(),
    'ADVERB': 'really rather quite somewhat almost'.split(),
    'DAY': 'monday tuesday friday sunday'.split()}
TEMPLATES = [line.split() for line in (
    'the NOUN was * and the NOUN seemed ADVERB loud',
    'we saw a * NOUN in town on DAY',
    'ADVERB * , said a friend about the NOUN of the NOUN on DAY',
    'on DAY they showed a NOUN with a * NOUN and a * NOUN',
    'my sister found the * NOUN and its NOUN ADVERB *',
    'it was DAY , and the NOUN by the door told us of a * NOUN')]
VOCABULARY = sorted({word for line in TEMPLATES for word in line}.union(
    *ADJECTIVES, *FILLERS.values()))
ENOUGH = 0.97  # test accuracy, below which the maps would mean little


def make_sentences(n, rng):
    """Make `n` sentences, each a list of words, and their classes."""
    classes = rng.randint(3, size=n).astype('int32')
    sentences = []
    for c in classes:
        words = dict(FILLERS, **{'*': ADJECTIVES[c]})
        template = TEMPLATES[rng.randint(len(TEMPLATES))]
        sentences.append([rng.choice(words.get(word, [word]))
                          for word in template])
    return sentences, classes


def encode(sentences):
    """The ids of the words, a row a sentence, and 0 behind the last one."""
    ids = np.zeros((len(sentences), max(map(len, sentences))), 'int32')
    for row, sentence in zip(ids, sentences):
        row[:len(sentence)] = [1 + VOCABULARY.index(word) for word in sentence]
    return ids


def build_network():
    net = InputLayer((None, None), T.imatrix('ids'))
    net = EmbeddingLayer(net, 1 + len(VOCABULARY), 16, name='embedding')
    net = DimshuffleLayer(net, (0, 2, 1))  # the dimensions are the channels
    net = Conv1DLayer(net, 32, 3, pad='same')  # rectified, by default
    net = GlobalPoolLayer(net, T.max)
    return DenseLayer(net, 3, nonlinearity=lasagne.nonlinearities.softmax)


def word_maps(network, ids, method, reduce):
    """What speaks for 'good' rather than 'bad': a number for each word."""
    f = gradmod.compile_saliency_function(
        network, target=lambda logits: logits[:, 2] - logits[:, 0],
        method=method, wrt='embedding', reduce=reduce)
    return f(ids)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__ + ' The sentences are made of templates, and a few '
        'known words make them good or bad. Prints in how many sentences that '
        'were held out from training the strongest word of the map is one of '
        'those.')
    parser.add_argument('--output', metavar='PATH', default='text.html',
                        type=lambda text: picture(text, ('.html', '.png',
                                                         '.pdf', '.svg')),
                        help='the page or picture to write (default: '
                        '%(default)s)')
    parser.add_argument('--sentences', metavar='N', type=integer(1, 32),
                        default=8, help='how many sentences to colour '
                        '(default: %(default)s)')
    add_arguments(parser, epochs=10)
    args = parser.parse_args()

    rng = generator(args.seed)
    network = build_network()
    sentences, classes = make_sentences(1000, rng)
    train(network, encode(sentences), classes, args.epochs, rng,
          learning_rate=0.1)

    sentences, classes = make_sentences(300, rng)
    ids = encode(sentences)
    x = get_all_layers(network)[0].input_var
    probabilities = get_output(network, deterministic=True)
    predicted = probabilities.argmax(axis=1).eval({x: ids})
    accuracy = (predicted == classes).mean()
    print('test accuracy: %.1f %% of %d sentences' %
          (100 * accuracy, len(classes)))
    if accuracy < ENOUGH:
        sys.exit('That is less than %.0f %%, and the maps of such a network '
                 'mean little: train it longer (--epochs)' % (100 * ENOUGH))

    shares = word_maps(network, ids, 'gradient_x_input',
                       lambda m: m.sum(axis=2))
    slopes = word_maps(network, ids, 'gradient', lambda m: abs(m).max(axis=2))
    relevant = [np.isin(sentence, RELEVANT) for sentence in sentences]
    chosen = [i for i, r in enumerate(relevant) if r.any()]  # none is neutral

    def found(maps):
        return 100 * np.mean([relevant[i][maps[i, :len(sentences[i])].argmax()]
                              for i in chosen])
    print('the strongest word is one that makes the sentence good or bad:\n'
          'gradient times input: %.1f %%, gradient: %.1f %%, chance: %.1f %%' %
          (found(abs(shares)), found(slopes),
           100 * np.mean([relevant[i].mean() for i in chosen])))

    chosen = chosen[:args.sentences]
    figure = plot_words(
        [sentences[i] for i in chosen],
        [shares[i, :len(sentences[i])] for i in chosen],
        labels=['predicted ' + CLASSES[predicted[i]] for i in chosen])
    try:
        if args.output.endswith('.html'):
            with open(args.output, 'w') as page:
                page.write(figure.html + '\n')
        else:
            figure.savefig(args.output)
    except OSError as error:
        sys.exit('The picture cannot be written: %s' % error)
    print('wrote %s' % args.output)


if __name__ == '__main__':
    main()
