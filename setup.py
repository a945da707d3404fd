import io
import os
import re
import sys

# The rest need not run on the Pythons that this turns away, but has to parse.
if not (3, 6) <= sys.version_info[:2] < (3, 12):
    sys.exit('''
gradmod runs on Python 3.6 to 3.11, where Theano does; this is Python %d.%d.
Install it into an environment with, say, Python 3.11. Any one of these makes
and enters one:

    conda create -n gradmod python=3.11 && conda activate gradmod
    uv venv --seed --python 3.11 && . .venv/bin/activate
    pyenv install 3.11 && pyenv shell 3.11
''' % sys.version_info[:2])

from setuptools import setup  # noqa: E402

here = os.path.dirname(os.path.abspath(__file__))


def read(*path):
    try:
        with io.open(os.path.join(here, *path), encoding='utf-8') as f:
            return f.read()
    except IOError:
        return ''


version = re.search(r"^__version__ = '([^']+)'",
                    read('gradmod', '__init__.py'), re.M).group(1)

# The bounds keep numpy where Theano works with it: from numpy 1.22 on it needs
# the help of gradmod.compat, from 1.24 on it is broken. They keep scipy to
# wheels with a BLAS inside that Theano can use. On Python 3.6 they also name
# what the others require: its pip takes the newest of those from an index that
# does not say which Pythons they are for.
py36 = '; python_version < "3.7"'
py37 = '; python_version == "3.7"'
py38 = '; python_version == "3.8"'
py39 = '; python_version == "3.9"'
py310 = '; python_version == "3.10"'
py311 = '; python_version >= "3.11"'

requirements = [
    'Theano>=0.9,<1.1' + py36,
    'Theano==1.0.5; python_version >= "3.7"',
    'Lasagne>=0.1',
    'six',
    'numpy>=1.16,<1.20' + py36,
    'numpy>=1.19,<1.22; python_version >= "3.7" and python_version < "3.10"',
    'numpy>=1.21.2,<1.22' + py310,
    'numpy>=1.23.2,<1.24' + py311,
    'scipy>=1.2,<1.6' + py36,
    'scipy>=1.2,<1.8' + py37,
    'scipy>=1.4,<1.11' + py38,
    'scipy>=1.5.4,<1.12' + py39,
    'scipy>=1.7.2,<1.12' + py310,
    'scipy>=1.9.3,<1.12' + py311,
    # Theano and Lasagne import pkg_resources: later ones warn, then lack it.
    'setuptools<80.9',
]

examples = [
    'distributed<2021.4' + py36,
    'distributed<2022.3' + py37,
    'distributed<2023.6' + py38,
    'distributed<2024.9' + py39,
    'distributed<2026.9; python_version >= "3.10"',
    'matplotlib<3.4' + py36,
    'matplotlib<3.6' + py37,
    'matplotlib<3.9; python_version >= "3.8" and python_version < "3.11"',
    'matplotlib<3.11' + py311,
    'scikit-image<0.18' + py36,
    'scikit-image<0.20' + py37,
    'scikit-image<0.22; python_version >= "3.8" and python_version < "3.11"',
    'scikit-image<0.25' + py311,
    'scikit-learn<0.25' + py36,
    'scikit-learn<1.1' + py37,
    'scikit-learn<1.7; python_version >= "3.8" and python_version < "3.11"',
    'scikit-learn<1.8' + py311,
    'tqdm<4.65' + py36,
    'tqdm; python_version >= "3.7"',
    # What the above pull in on Python 3.6.
    'HeapDict<2' + py36,
    'PyWavelets<1.2' + py36,
    'PyYAML<6' + py36,
    'click<8' + py36,
    'cloudpickle<2.3' + py36,
    'contextvars<3' + py36,
    'cycler<0.12' + py36,
    'dask<2021.4' + py36,
    'decorator<5' + py36,
    'imageio<2.16' + py36,
    'immutables<0.16' + py36,
    'importlib-resources<5.5' + py36,
    'joblib<1.2' + py36,
    'kiwisolver<1.4' + py36,
    'msgpack<1.0.3' + py36,
    'networkx<2.6' + py36,
    'pillow<9' + py36,
    'psutil<5.9' + py36,
    'pyparsing<3.1' + py36,
    'python-dateutil<2.9' + py36,
    'sortedcontainers<3' + py36,
    'tblib<2' + py36,
    'threadpoolctl<3.2' + py36,
    'tifffile<2020.9.4' + py36,
    'toolz<0.12.1' + py36,
    'tornado<6.2' + py36,
    'zict<2.2' + py36,
    'zipp<3.7' + py36,
]

tests = [
    'pytest<7.1' + py36,
    'pytest; python_version >= "3.7"',
    'hypothesis<6.32' + py36,
    'hypothesis; python_version >= "3.7"',
    # The first that counts the programs that tests run; see .coveragerc.
    'coverage>=7.10; python_version >= "3.9"',
    # What executes the notebook.
    'ipykernel; python_version >= "3.8"',
    'nbclient; python_version >= "3.8"',
    # What the above pull in on Python 3.6.
    'attrs<22.2' + py36,
    'importlib-metadata<4.9' + py36,
    'iniconfig<2' + py36,
    'packaging<22' + py36,
    'pluggy<1.1' + py36,
    'py<1.12' + py36,
    'pyparsing<3.1' + py36,
    'sortedcontainers<3' + py36,
    'tomli<1.3' + py36,
    'typing-extensions<4.2' + py36,
    'zipp<3.7' + py36,
]

setup(
    name='gradmod',
    version=version,
    description='Gradient overrides for Theano: guided backpropagation and '
                'its relatives',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author='The gradmod developers',
    license='MIT',
    packages=['gradmod'],
    python_requires='>=3.6,<3.12',
    install_requires=requirements,
    extras_require={'examples': examples, 'tests': tests},
    keywords='theano lasagne gradient guided-backpropagation saliency '
             'interpretability',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: MIT License',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.6',
        'Programming Language :: Python :: 3.7',
        'Programming Language :: Python :: 3.8',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
