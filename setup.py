import io
import os
import re
import sys
import sysconfig

# The rest need not run on the Pythons that this turns away, but has to parse.
if not (3, 6) <= sys.version_info[:2] < (3, 12):
    sys.exit('''
gradmod runs on Python 3.6 to 3.11, where Theano does; this is Python %d.%d.
One command gets a 3.11, installs gradmod with that, and runs the main example:

    python3 -m venv .uv && .uv/bin/pip install uv && .uv/bin/uv venv --seed \
--python 3.11 .venv311 && .venv311/bin/pip install ".[examples]" && \
.venv311/bin/python examples/digits.py

With conda: conda create -n gradmod python=3.11 && conda activate gradmod
''' % sys.version_info[:2])

from setuptools import setup  # noqa: E402
from setuptools.command.sdist import sdist  # noqa: E402

here = os.path.dirname(os.path.abspath(__file__))


def read(*path):
    try:
        with io.open(os.path.join(here, *path), encoding='utf-8') as f:
            return f.read()
    except IOError:
        return ''


version = re.search(r"^__version__ = '([^']+)'",
                    read('gradmod', '__init__.py'), re.M).group(1)


def theano_pymc_is_here():
    """Whether the environment has the other distribution of Theano's package.

    pip knows no "or". Theano-PyMC is enough for gradmod, and Theano would be put
    over it, file by file. It is seen where pip builds from source; uv, and who
    installs a wheel, has to say --no-deps.
    """
    folder = sysconfig.get_path('purelib')
    return os.path.isdir(folder) and any(
        re.match('theano[-_]pymc-', name, re.I) for name in os.listdir(folder))


# The bounds keep numpy where Theano works with it: from numpy 1.22 on it needs
# the help of gradmod.compat, from 1.24 on it is broken. They keep scipy to
# wheels with a BLAS inside that Theano can use.
py36 = '; python_version < "3.7"'
py37 = '; python_version == "3.7"'
py38 = '; python_version == "3.8"'
py39 = '; python_version == "3.9"'
py310 = '; python_version == "3.10"'
py311 = '; python_version >= "3.11"'

theano = [] if theano_pymc_is_here() else [
    'Theano>=0.9,<1.1' + py36,
    'Theano==1.0.5; python_version >= "3.7"',
]
requirements = theano + [
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
]

tests = [
    'pytest<7.1' + py36,
    'pytest; python_version >= "3.7"',
    'pytest-xdist<3.1' + py36,
    'pytest-xdist; python_version >= "3.7"',
    'hypothesis<6.32' + py36,
    'hypothesis; python_version >= "3.7"',
    # The first that counts the programs that tests run; see .coveragerc.
    'coverage>=7.10; python_version >= "3.9"',
    'flake8; python_version >= "3.8"',
    # What executes the notebook.
    'ipykernel; python_version >= "3.8"',
    'nbclient; python_version >= "3.8"',
]

# What the above require, on Python 3.6 alone: its pip takes the newest from an
# index that does not say which Pythons that is for.
indirect_36 = {
    'examples': '''
        HeapDict<2 PyWavelets<1.2 PyYAML<6 click<8 cloudpickle<2.3 contextvars<3
        cycler<0.12 dask<2021.4 decorator<5 imageio<2.16 immutables<0.16
        importlib-resources<5.5 joblib<1.2 kiwisolver<1.4 msgpack<1.0.3
        networkx<2.6 pillow<9 psutil<5.9 pyparsing<3.1 python-dateutil<2.9
        sortedcontainers<3 tblib<2 threadpoolctl<3.2 tifffile<2020.9.4
        toolz<0.12.1 tornado<6.2 zict<2.2 zipp<3.7''',
    'tests': '''
        attrs<22.2 execnet<2 importlib-metadata<4.9 iniconfig<2 packaging<22
        pluggy<1.1 py<1.12 pyparsing<3.1 sortedcontainers<3 tomli<1.3
        typing-extensions<4.2 zipp<3.7''',
}
extras = {name: direct + [pin + py36 for pin in indirect_36[name].split()]
          for name, direct in [('examples', examples), ('tests', tests)]}


class WithoutTests(sdist):
    """Setuptools adds the modules of tests, but nothing that they need."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, [
            f for f in files if not f.startswith('tests' + os.sep)])


setup(
    name='gradmod',
    cmdclass={'sdist': WithoutTests},
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
    extras_require=extras,
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
