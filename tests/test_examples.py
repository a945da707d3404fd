"""The programs in examples/, run as a user runs them.

The main one, digits.py, is what README.md's first command runs; here only what
that command does not show. The pretrained network's weights are not part of
the project: set GRADMOD_CIFAR_WEIGHTS to the path of cifar_model_n5.npz.
"""
import os
import re
import subprocess
import sys

import pytest

EXAMPLES = os.path.join(os.path.dirname(__file__), os.pardir, 'examples')
WEIGHTS = os.environ.get('GRADMOD_CIFAR_WEIGHTS')


def run(program, *args):
    env = dict(os.environ)
    env['PYTHONPATH'] = os.path.abspath(os.path.join(EXAMPLES, os.pardir))
    process = subprocess.run(
        [sys.executable, os.path.join(EXAMPLES, program)] + list(args),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        universal_newlines=True)
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize('program, args, message', [
    ('digits.py', ['--images', '0'], 'whole number from 1 to 100'),
    ('digits.py', ['--output', 'nowhere/digits.png'], 'no folder'),
    ('sanity_check.py', ['--images', '0'], 'whole number from 1 to 400'),
    ('cifar_resnet.py', [], '--weights'),
    ('cifar_resnet.py', ['--weights', 'nowhere.npz'], 'nowhere.npz')])
def test_bad_arguments(program, args, message):
    code, out, err = run(program, *args)
    assert code != 0 and message in err
    assert 'Traceback' not in err


def accuracies(program):
    code, out, err = run(program)
    assert code == 0, err  # both say so if the rule has not helped
    return [float(number) for number in re.findall(r'([0-9.]+) %', out)]


def test_training_through_a_sign():
    true_gradient, straight_through = accuracies('binary_digits.py')
    assert straight_through > max(95, true_gradient)


def test_training_against_a_classifier_of_domains():
    _, without, source, target = accuracies('domain_adversarial.py')
    assert source > 93 and target > without + 3


@pytest.mark.skipif(not WEIGHTS, reason='needs the weights of the CIFAR-10 '
                    'ResNet-32: set GRADMOD_CIFAR_WEIGHTS to their path')
def test_cifar_resnet(tmp_path):
    import matplotlib.image
    path = tmp_path / 'maps.png'
    code, out, err = run('cifar_resnet.py', '--weights', WEIGHTS,
                         '--output', str(path))
    assert code == 0, err
    (chelsea,) = [line for line in out.splitlines() if 'chelsea' in line]
    assert 'cat' in chelsea
    probability = max(float(word) for word in chelsea.split()
                      if word.replace('.', '').isdigit())
    assert probability > .999
    picture = matplotlib.image.imread(str(path))[..., :3]
    assert picture.std() > .05
