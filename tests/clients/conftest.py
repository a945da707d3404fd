"""Leaves out the tests of clients that are not installed; see the README."""
import importlib.util
import os


def has_theano_keras():
    """Whether there is a Keras with a Theano back end; does not import it."""
    spec = importlib.util.find_spec('keras')
    return bool(spec and spec.submodule_search_locations) and os.path.exists(
        os.path.join(spec.submodule_search_locations[0], 'backend',
                     'theano_backend.py'))


collect_ignore = [] if has_theano_keras() else ['test_keras.py']
