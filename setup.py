from setuptools import find_packages, setup

version = {}
with open('allnc_mm/version.py') as file:
    exec(file.read(), version)
with open('README.md', encoding='utf-8') as file:
    readme = file.read()

# OpenMMLab exists in two families of distributions with the same import names, which overwrite each other in one
# environment. Neither is therefore a hard requirement: a user who has one keeps it, a new user picks an extra.
onedl = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmpretrain>=1.3.6', 'onedl-mmsegmentation>=1.4.2']
openmmlab = [
    'mmengine>=0.10.7', 'mmcv-lite>=2.1.0,<2.2.0', 'mmpretrain>=1.2.0', 'mmsegmentation>=1.2.2',
    'ftfy', 'regex',  # imported by mmsegmentation 1.2.2 without being declared
    'setuptools<82',  # mmengine 0.10.7 imports pkg_resources
]

setup(
    name='allnc-mm',
    version=version['__version__'],
    description='All-around Neural Collapse for imbalanced data: a plug-in for OpenMMLab',
    long_description=readme,
    long_description_content_type='text/markdown',
    author='The allnc_mm authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['allnc_mm', 'allnc_mm.*']),
    # .mim/configs and .mim/tools are links into the repository; a wheel holds their files
    package_data={'allnc_mm': ['.mim/*.yml', '.mim/configs/**/*', '.mim/tools/**/*', 'codes/*.npz']},
    exclude_package_data={'allnc_mm': ['.mim/**/__pycache__/*']},
    install_requires=[
        'torch>=2.6',  # torch.load(weights_only=True) with names on the allow-list
        'numpy',
        'scipy',  # geometry: bounds, quadratic assignment
        'platformdirs',  # where computed codes are kept
        'filelock',  # two processes that compute the same code (a requirement of torch already)
        'matplotlib',  # figures
        'rich',  # tables on the terminal
        'scikit-learn',  # the handwritten digits of the embedded main job
    ],
    extras_require={
        'onedl': onedl,
        'openmmlab': openmmlab,
        'test': ['pytest', 'pytest-xdist', 'ruff', 'mypy', 'tensorboard',
                 'torchmetrics',  # the cross-check of our calibration error
                 'onnx', 'onnxscript', 'onnxruntime'],  # a converted model runs elsewhere
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
