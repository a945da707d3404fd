"""Each client is run by its name alone, in its environment: see the README."""
import os

os.environ['KERAS_BACKEND'] = 'theano'  # read when Keras is imported
collect_ignore_glob = ['test_*.py']
